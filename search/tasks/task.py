"""What a task is: its data, its loss, its predictions, and the words its answers come in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from search.errors import Where

if TYPE_CHECKING:
    import torch

    from search.config.schema import DataConfig
    from search.tasks.heads import Head
    from search.tasks.tokens import Encoded


@dataclass(frozen=True)
class Split:
    """Rows of one part of the data, in the order of the file."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None  # second texts, for tasks on pairs
    labels: np.ndarray  # (N,) int64

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the content: equal for equal rows in equal order."""
        total = hashlib.sha256()
        for column in (self.texts, self.pairs or ()):
            for text in column:
                total.update(text.encode("utf-8", "surrogatepass") + b"\0")
            total.update(b"\1")
        total.update(self.labels.astype("<i8").tobytes())
        return total.hexdigest()[:16]

    def rows(self, chosen: np.ndarray) -> Split:
        """The rows with these indices, in this order."""
        pairs = None if self.pairs is None else tuple(self.pairs[i] for i in chosen)
        return Split(tuple(self.texts[i] for i in chosen), pairs, self.labels[chosen])


@dataclass(frozen=True)
class Splits:
    """Train, validation (chooses) and test (reported once), with the names of the labels."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]  # of label 0, 1, ...
    notes: tuple[str, ...] = field(default=(), compare=False)  # what was done to the data, for the log

    @property
    def digest(self) -> str:
        parts = (self.train.digest, self.validation.digest, self.test.digest, *self.labels)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class Task(Protocol):
    """One kind of job. Outputs and predictions are rows by batch; nothing here knows how the model runs."""

    name: str
    metrics: tuple[str, ...]  # the default first
    auto_model: str  # the transformers class that gives the model its head

    def load(self, data: DataConfig, where: Where = str, head: Head | None = None) -> Splits:
        """Read the data, with the label numbers of `head` where the model has a trained one.

        Raises UserError, beginning with `where(key)`.
        """
        ...

    def encode(self, tokenizer: Any, split: Split, max_length: int) -> Encoded:
        """Token ids of every row, cut at `max_length` tokens."""
        ...

    def decide(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The predictions (B,), comparable with `Split.labels`."""
        ...

    def loss(self, outputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """The training loss (scalar) of outputs against labels (B,)."""
        ...

    def reply(
        self,
        outputs: Mapping[str, np.ndarray],
        labels: Sequence[str],
        problem: str | None = None,
        function: str | None = None,
        top_k: int | None = 1,
    ) -> list[list[dict[str, Any]]]:
        """Each row's best answers, as a transformers pipeline of this task gives them."""
        ...
