"""The training loop: of the teacher, and of what compression left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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


@dataclass(frozen=True, slots=True)
class Stopping:
    """Early stopping: the loss on rows that are not trained on, looked at `each` so many epochs.

    Training ends when `patience` looks in a row found nothing better, and the best weights seen are kept (Prechelt
    1998, "Early Stopping - But When?").
    """

    loss: Callable[[TaskModel], float]
    patience: int
    each: float = 0.25


def fit(
    model: TaskModel,
    epoch: Callable[[int], Sequence[Batch]],
    loss: Loss,
    training: Training,
    device: str,
    progress: Callable[[float], None] = lambda done: None,
    stopping: Stopping | None = None,
) -> None:
    """Train `model` in place with AdamW, linear warm-up and decay; `epoch(i)` gives the batches of epoch i.

    bf16 autocast on CUDA. Raises FloatingPointError when the loss is no longer finite, ValueError when there are no
    batches.
    """
    if training.epochs <= 0:
        return
    torch.manual_seed(training.seed)
    per_epoch = len(epoch(0))
    if per_epoch == 0:
        raise ValueError("an epoch has no batches")
    total = max(1, round(training.epochs * per_epoch))
    model.to(device).train()
    frozen = _frozen(model) if training.freeze_embeddings else set()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter not in frozen)
    optimizer = torch.optim.AdamW(_groups(model, training), fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _linear(total, training.warmup))
    step = 0
    best = None if stopping is None else _Best(stopping, max(1, round(stopping.each * per_epoch)))
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
            if best is not None and best.over(model, step, total):
                break
        if best is not None and best.ended:
            break
    if best is not None:
        best.restore(model)
    model.requires_grad_(True).eval().to("cpu")


class _Best:
    """The weights with the lowest held-out loss so far."""

    def __init__(self, stopping: Stopping, every: int) -> None:
        self._stopping, self._every = stopping, every
        self._loss, self._worse = float("inf"), 0
        self._weights: dict[str, Tensor] | None = None
        self.ended = False

    def over(self, model: TaskModel, step: int, total: int) -> bool:
        """Look, where it is time to; whether training should end."""
        if step % self._every and step < total:
            return False
        model.eval()
        found = self._stopping.loss(model)
        model.train()
        if found < self._loss:
            self._loss, self._worse = found, 0
            self._weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        else:
            self._worse += 1
        self.ended = self._worse >= self._stopping.patience
        return self.ended

    def restore(self, model: TaskModel) -> None:
        if self._weights is not None:
            model.load_state_dict(self._weights)


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
