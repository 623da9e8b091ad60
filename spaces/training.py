"""Fine-tuning the teacher, and distilling it into what compression left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.base import TaskModel

#: One batch: the model's inputs, and which rows of the data they are.
Batch = tuple[Mapping[str, Tensor], Tensor]
Loss = Callable[[TaskModel, Mapping[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Training:
    """How long and how fast. `epochs` may be a fraction; 0 trains nothing."""

    epochs: float
    batch: int
    learning_rate: float
    head_learning_rate: float
    warmup: float = 0.06  # share of the steps over which the rate rises
    weight_decay: float = 0.01
    freeze_embeddings: bool = True
    seed: int = 0


def fit(
    model: TaskModel,
    epoch: Callable[[int], Sequence[Batch]],
    loss: Loss,
    training: Training,
    device: str,
    progress: Callable[[float], None] = lambda done: None,
) -> None:
    """Train `model` in place with AdamW, linear warm-up and decay; `epoch(i)` gives the batches of epoch i.

    bf16 autocast on CUDA. Raises FloatingPointError when the loss is no longer finite.
    """
    if training.epochs <= 0:
        return
    torch.manual_seed(training.seed)
    per_epoch = len(epoch(0))
    total = max(1, round(training.epochs * per_epoch))
    model.to(device).train()
    frozen = _frozen(model) if training.freeze_embeddings else set()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter not in frozen)
    optimizer = torch.optim.AdamW(_groups(model, training), fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _linear(total, training.warmup))
    step = 0
    for number in range(-(-total // per_epoch)):
        for inputs, rows in epoch(number)[: total - step]:
            moved = {name: tensor.to(device) for name, tensor in inputs.items()}
            with _autocast(device):
                value = loss(model, moved, rows)
            if not bool(torch.isfinite(value)):
                raise FloatingPointError(f"the loss became {value.item()} at step {step} of {total}")
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            progress(step / total)
    model.requires_grad_(True).eval().to("cpu")


def _autocast(device: str) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()


def _frozen(model: TaskModel) -> set[nn.Parameter]:
    """Embedding tables: most of a small model's weights, and the least changed by fine-tuning."""
    return {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}


def _groups(model: TaskModel, training: Training) -> list[dict[str, Any]]:
    backbone = {p for p in model.backbone.parameters() if p.requires_grad}
    head = [p for p in model.parameters() if p.requires_grad and p not in backbone]
    decayed = [p for p in backbone if p.ndim > 1]
    plain = [p for p in backbone if p.ndim <= 1]
    return [
        {"params": decayed, "lr": training.learning_rate, "weight_decay": training.weight_decay},
        {"params": plain, "lr": training.learning_rate, "weight_decay": 0.0},
        {"params": head, "lr": training.head_learning_rate, "weight_decay": 0.0},
    ]


def _linear(total: int, warmup: float) -> Callable[[int], float]:
    rising = max(1, round(warmup * total))
    return lambda step: min((step + 1) / rising, max(0.0, (total - step) / max(1, total - rising)))


@dataclass(frozen=True)
class Distillation:
    """Loss of a student: labels, the teacher's soft labels, and the teacher's last hidden state.

    soft: T^2 KL(teacher/T || student/T) (Hinton et al. 2015, section 2). hidden: mean square error per
    token, relative to the teacher's energy (TinyBERT, Jiao et al. 2020, arXiv 1909.10351, section 3.2, last
    layer only). `teacher(rows, inputs)` gives logits (B, C) and hidden states (B, L, H), stored or computed;
    `columns` are the coordinates a narrower student kept.
    """

    labels: Tensor
    teacher: Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor, Tensor | None]]
    task: Callable[[Tensor, Tensor], Tensor]
    temperature: float
    task_weight: float
    soft_weight: float
    hidden_weight: float
    columns: Tensor | None = None

    def __call__(self, model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = model.backbone.register_forward_hook(lambda _m, _a, out: seen.append(out.last_hidden_state))
        try:
            logits = model(**inputs)
        finally:
            hook.remove()
        taught, hidden = self.teacher(rows, inputs)
        taught = taught.to(logits.device)
        value = self.task_weight * self.task(logits, self.labels[rows].to(logits.device))
        value = value + self.soft_weight * soft_loss(logits, taught, self.temperature)
        if hidden is not None and self.hidden_weight > 0:
            target = hidden.to(logits.device)
            target = target if self.columns is None else target[..., self.columns.to(target.device)]
            value = value + self.hidden_weight * hidden_loss(seen[0], target, inputs["attention_mask"])
        return value


def soft_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(taught/T || logits/T), mean over rows; (B, C) each."""
    student = functional.log_softmax(logits.float() / temperature, -1)
    teacher = functional.log_softmax(taught.float() / temperature, -1)
    return functional.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2


def hidden_loss(hidden: Tensor, target: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over real tokens of |h - t|^2 / mean |t|^2; (B, L, H) each, mask (B, L)."""
    keep = attention_mask.bool()
    h, t = hidden[keep].float(), target[keep].float()
    return (h - t).square().mean() / t.square().mean().clamp(min=1e-12)
