"""The training loop, for the teacher and for the recovery of compressed models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spaces.base import TaskModel
from spaces.bf16 import has_bf16
from spaces.checkpoints import Checkpoints, Keeper, TrainingState
from spaces.early_stopping import Best, Stopping

#: One batch: the model's inputs, and which rows of the data they are.
TrainingBatch = tuple[Mapping[str, Tensor], Tensor]
Loss = Callable[[TaskModel, Mapping[str, Tensor], Tensor], Tensor]


class Diverged(FloatingPointError):  # noqa: N818 - what happened to it
    """A loss or a weight is no finite number after some steps of a training."""


@dataclass(frozen=True, slots=True)
class Training:
    """Hyperparameters of a training. `epochs` may be a fraction; 0 trains nothing."""

    epochs: float
    batch: int
    learning_rate: float
    head_learning_rate: float
    warmup: float = 0.06  # share of the steps over which the rate rises
    weight_decay: float = 0.01
    freeze_embeddings: bool = True
    dropout: bool = True  # the model's own; without it a model trains in eval mode
    bf16: bool = True  # products under bf16 autocast, where the device computes in bf16 natively
    seed: int = 0


def train(
    model: TaskModel,
    epoch: Callable[[int], Sequence[TrainingBatch]],
    loss: Loss,
    training: Training,
    device: str,
    progress: Callable[[float], None] = lambda done: None,
    stopping: Stopping | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train `model` in place with AdamW, linear warm-up and decay; `epoch(i)` gives the batches of epoch i.

    With `checkpoints` it resumes from the state in that file, if there is one that fits, and writes its state there;
    all epochs must then have the same number of batches. A training that was killed and resumed gives the weights of an
    uninterrupted one, on the CPU bit for bit. Under bf16 autocast weights, moments and losses stay fp32 (Micikevicius
    et al. 2018, arXiv 1710.03740), and bf16 needs no loss scaling (Kalamkar et al. 2019, arXiv 1905.12322).

    `loss(model, inputs, rows)` is the mean loss of a batch, and `progress` is called with the share that is done.

    Raises:
        FloatingPointError: a loss, or a weight at the end, is not finite; Diverged after the first step.
        ValueError: an epoch has no batches.
    """
    if training.epochs <= 0:
        return
    torch.manual_seed(training.seed)
    per_epoch = len(epoch(0))
    if per_epoch == 0:
        raise ValueError("an epoch has no batches")
    total = max(1, round(training.epochs * per_epoch))
    optimizer = _optimizer(model, training, device)
    bf16 = training.bf16 and has_bf16(device)
    best = None if stopping is None else Best(stopping, max(1, round(stopping.each * per_epoch)))
    settings = {**asdict(training), "bf16": bf16, "per_epoch": per_epoch}
    keeper = Keeper(checkpoints, TrainingState(model, optimizer, best, device, settings))
    step = keeper.resume(total)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _linear(total, training.warmup), step - 1)
    ended = best is not None and best.ended
    with _autocast(model, device, bf16):
        for inputs, rows in _batches(epoch, per_epoch, step, step if ended else total):
            value = _descend(model, loss, inputs, rows, optimizer, device)
            _check_loss(value, step, total)
            schedule.step()
            step += 1
            progress(step / total)
            if best is not None and best.over(model, step, total):
                break
            keeper.over(step)
    if best is not None and (best.ended or step == total):
        best.restore(model)
    _check_weights(model, step, total)
    model.requires_grad_(True).eval().to("cpu")


def _check_loss(value: float, step: int, total: int) -> None:
    """Raise FloatingPointError for a loss that is not finite; Diverged after the first step."""
    if math.isfinite(value):
        return
    if step == 0:
        raise FloatingPointError(f"the loss of the first batch is {value}")
    raise Diverged(f"the loss became {value} at step {step} of {total}")


def _check_weights(model: TaskModel, step: int, total: int) -> None:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise Diverged(f"weights became infinite or no numbers by step {step} of {total}")


@contextmanager
def _autocast(model: TaskModel, device: str, bf16: bool) -> Iterator[None]:
    """While open, the products of the model's forward pass are in bf16 if wanted; what a loss adds stays fp32."""
    if not bf16:
        yield
        return
    setattr(model, "forward", torch.autocast(device, torch.bfloat16)(model.forward))  # noqa: B010 - of this one model
    try:
        yield
    finally:
        delattr(model, "forward")


def _descend(
    model: TaskModel,
    loss: Loss,
    inputs: Mapping[str, Tensor],
    rows: Tensor,
    optimizer: torch.optim.Optimizer,
    device: str,
) -> float:
    """One optimiser step, and the loss before it; no step where the loss is not finite."""
    differentiable = loss(model, {name: tensor.to(device) for name, tensor in inputs.items()}, rows)
    value = float(differentiable.detach())
    if math.isfinite(value):
        differentiable.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return value


def _batches(
    epoch: Callable[[int], Sequence[TrainingBatch]], per_epoch: int, first: int, until: int
) -> Iterator[TrainingBatch]:
    """The batches of the steps from `first` to `until`, epoch by epoch."""
    for number in range(first // per_epoch, -(-until // per_epoch)):
        start = number * per_epoch
        yield from epoch(number)[max(0, first - start) : until - start]


def _optimizer(model: TaskModel, training: Training, device: str) -> torch.optim.AdamW:
    """AdamW over the trained parameters of `model`, which is already on its device."""
    model.to(device).train(training.dropout)
    frozen = _frozen(model) if training.freeze_embeddings else set()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter not in frozen)
    return torch.optim.AdamW(_groups(model, training), fused=device == "cuda")


def _frozen(model: TaskModel) -> set[nn.Parameter]:
    """Embedding tables: most of a small model's weights, and the least changed by fine-tuning."""
    return {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}


def _groups(model: TaskModel, training: Training) -> list[dict[str, Any]]:
    # Lists, in the model's order: a kept state knows a parameter by its place among them.
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    inside = set(backbone)
    head = [p for p in model.parameters() if p.requires_grad and p not in inside]
    decayed = [p for p in backbone if p.ndim > 1]
    plain = [p for p in backbone if p.ndim <= 1]
    head_rate, rate = training.head_learning_rate, training.learning_rate
    groups = [(decayed, rate, training.weight_decay), (plain, rate, 0.0), (head, head_rate, 0.0)]
    # A schedule that starts in the middle reads the rate at its top from `initial_lr`.
    return [{"params": p, "lr": lr, "initial_lr": lr, "weight_decay": decay} for p, lr, decay in groups]


def _linear(total: int, warmup: float) -> Callable[[int], float]:
    rising = max(1, round(warmup * total))
    return lambda step: min((step + 1) / rising, max(0.0, (total - step) / max(1, total - rising)))
