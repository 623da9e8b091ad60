"""The expected time of one recovery, from measured training steps of the uncompressed model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.config.schema import RunConfig
from search.prepare.folders import tensors
from search.prepare.recovery_budget import BYTES_EACH, epochs_of, likeliest_of, stored_likeliest
from search.tasks import task_of

if TYPE_CHECKING:
    from search.tasks.tokens import Encoded
    from spaces.base import TaskModel

#: Tokens of a measured step, and the number of steps, of which the first is slower than the others.
STEP_TOKENS, TIMED_STEPS = 1024, 3


@dataclass(frozen=True)
class Forecast:
    """The forecast for one set of weights, by steps of the uncompressed model on the task's loss alone."""

    tokens: int  # trained on
    step_tokens: int
    step_s: float
    stored_mb: float  # of the teacher's likeliest tokens

    def __str__(self) -> str:
        seconds = self.step_s * self.tokens / self.step_tokens
        stored = f"; {self.stored_mb:,.1f} MB of the teacher's likeliest tokens are stored" if self.stored_mb else ""
        return (
            f"a step on {self.step_tokens:,} tokens takes {self.step_s:.2g} s uncompressed, so {self.tokens:,} tokens "
            f"take about {seconds:,.0f} s for a set of weights{stored}"
        )


@dataclass(frozen=True)
class Trained:
    """The most that one recovery trains on: rows and tokens of an epoch, and the number of epochs."""

    rows: float
    tokens: int
    epochs: float


def trained(config: RunConfig, encoded: Encoded, share: float) -> Trained:
    """What one recovery of this search trains on; `encoded` holds a `share` (0 to 1) of the training rows."""
    recover, every = config.recover, len(encoded) / share
    rows = min(recover.rows or every, every)
    tokens = max(1, round(rows * float(encoded.lengths.mean())))
    return Trained(rows, tokens, epochs_of(recover.epochs, recover.tokens, tokens))


def forecast(
    config: RunConfig, model: TaskModel, encoded: Encoded, targets: np.ndarray, share: float, device: str
) -> Forecast:
    """The forecast for the rows `encoded`, which are `share` of the training split, with their `targets`.

    The measured steps change the weights of `model`.
    """
    wanted = trained(config, encoded, share)
    tokens = round(wanted.tokens * wanted.epochs)
    chosen = np.arange(max(1, int((np.cumsum(encoded.lengths) <= STEP_TOKENS).sum())))
    count = likeliest_of(config)
    asked = min(wanted.tokens, tokens)
    stored = asked * stored_likeliest(count, asked) * BYTES_EACH
    step_s = _step_s(config, model, encoded.batch(chosen), targets[chosen], device)
    return Forecast(tokens, int(encoded.lengths[chosen].sum()), step_s, stored / 1e6)


def _step_s(
    config: RunConfig, model: TaskModel, batch: Mapping[str, np.ndarray], targets: np.ndarray, device: str
) -> float:
    """The seconds of the fastest of a few training steps on `batch`."""
    import torch

    from spaces.training import Training, train

    task, wanted = task_of(config), torch.from_numpy(targets)
    ends = [time.monotonic()]

    def loss(student: TaskModel, inputs: Any, numbers: torch.Tensor) -> torch.Tensor:
        return task.loss(student(**inputs), wanted.to(inputs["attention_mask"].device), inputs["attention_mask"])

    recover = config.recover
    training = Training(
        TIMED_STEPS,
        len(targets),
        0.0,  # a step takes as long at any rate, and at 0 none diverges
        0.0,
        freeze_embeddings=config.teacher.freeze_embeddings,
        dropout=recover.dropout,
        bf16=recover.bf16,
    )
    batches = [(tensors(batch, ("input_ids", "attention_mask")), torch.arange(len(targets)))]
    train(model, lambda epoch: batches, loss, training, device, lambda done: ends.append(time.monotonic()))
    return float(np.diff(ends)[1:].min())
