"""The expected time of one recovery, from measured training steps of the uncompressed model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.config.schema import RunConfig
from search.prepare.folders import tensors
from search.prepare.recovery_budget import BYTES_EACH, epochs_of, likeliest_of, stored_likeliest
from search.tasks import task_of

if TYPE_CHECKING:
    from search.tasks.causal_lm import WindowRows
    from spaces.base import TaskModel

#: Tokens of a measured step, and the number of steps, of which the first is slower than the others.
STEP_TOKENS, STEPS = 1024, 3


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


def forecast(config: RunConfig, model: TaskModel, rows: WindowRows, share: float, device: str) -> Forecast:
    """The forecast for a language model; `rows` are `share` of the training split.

    The measured steps change the weights of `model`.
    """
    sampled = int(rows.encoded.lengths.sum())
    every = max(1, round(sampled / share))
    tokens = round(every * epochs_of(config.recover.epochs, config.recover.tokens, every))
    chosen = np.arange(max(1, int((np.cumsum(rows.encoded.lengths) <= STEP_TOKENS).sum())))
    count = likeliest_of(config)
    stored = min(every, tokens) * stored_likeliest(count, min(every, tokens)) * BYTES_EACH
    step_s = _step_s(config, model, rows, chosen, device)
    return Forecast(tokens, int(rows.encoded.lengths[chosen].sum()), step_s, stored / 1e6)


def _step_s(config: RunConfig, model: TaskModel, rows: WindowRows, chosen: np.ndarray, device: str) -> float:
    """The seconds of the fastest of a few training steps on the `chosen` rows."""
    import torch

    from spaces.training import Training, train

    task, targets = task_of(config), torch.from_numpy(rows.windows.first[chosen])
    inputs = tensors(rows.encoded.batch(chosen), ("input_ids", "attention_mask"))
    ends = [time.monotonic()]

    def loss(student: TaskModel, batch: Any, numbers: torch.Tensor) -> torch.Tensor:
        return task.loss(student(**batch), targets.to(batch["attention_mask"].device), batch["attention_mask"])

    rate = config.recover.learning_rate
    training = Training(STEPS, len(chosen), rate, rate, freeze_embeddings=config.teacher.freeze_embeddings)
    batches = [(inputs, torch.arange(len(chosen)))]
    train(model, lambda epoch: batches, loss, training, device, lambda done: ends.append(time.monotonic()))
    return float(np.diff(ends)[1:].min())
