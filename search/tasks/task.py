"""What a task is: its data, its loss, its predictions, and the words its answers come in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from search.errors import UserError, Where, listed

if TYPE_CHECKING:
    import torch

    from search.sections import DataConfig
    from search.tasks.text import Encoded


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

    def renumbered(self, names: Sequence[str], where: str = "model.head") -> Splits:
        """With the label numbers of a model that is already trained, whose labels are `names`.

        Labels that are bare numbers are taken for the model's own; others are matched by name,
        unless the model has only transformers' LABEL_0, LABEL_1, ...

        Raises:
            UserError: the data have a label that the model does not know.
        """
        if list(names) == [f"LABEL_{i}" for i in range(len(self.labels))]:
            return self  # transformers' own numbering: the model has no names
        known = {name.lower(): i for i, name in enumerate(names)}
        if all(label.isdecimal() and int(label) < len(names) for label in self.labels):
            numbers = [int(label) for label in self.labels]
        else:
            numbers = [known.get(label.lower(), -1) for label in self.labels]
        if -1 in numbers:
            strange = self.labels[numbers.index(-1)]
            raise UserError(f'{where}: the model was trained on {listed(names)}, and the data have "{strange}"')
        table = np.array(numbers, dtype=np.int64)
        train, validation, test = (
            replace(part, labels=table[part.labels]) for part in (self.train, self.validation, self.test)
        )
        return Splits(train, validation, test, tuple(names), self.notes)


class Task(Protocol):
    """One kind of job. Outputs and predictions are rows by batch; nothing here knows how the model runs."""

    name: str
    metrics: tuple[str, ...]  # the default first
    auto_model: str  # the transformers class that gives the model its head

    def load(self, data: DataConfig, where: Where = str) -> Splits:
        """Read the data. Raises UserError, beginning with `where(key)`."""
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

    def reply(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[dict[str, Any]]:
        """One answer a row, as a transformers pipeline of this task gives it."""
        ...
