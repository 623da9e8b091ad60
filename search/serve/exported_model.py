"""The base class of exported models: files, tokenizer, and the opened runtime."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np

from search.deliver.best_config import BestConfig
from search.tasks import recorded_data, task_named
from search.tasks.tokens import Encoded, by_length, load_tokenizer
from spaces import build
from spaces.base import read_config
from spaces.recipe import Recipe
from spaces.runtime import Context, Predict
from spaces.runtimes.padding import PaddedPredict, padded_length


class ExportedModel:
    """An exported model with its tokenizer, under the runtime and precision of its record. Threads may share it."""

    def __init__(self, folder: Path, record: BestConfig, predict: Predict, context: Context) -> None:
        self.folder, self.record, self.context = folder, record, context
        self._predict = predict
        self._tokenizer = load_tokenizer(folder)
        #: Truncation and padding are state of a fast tokenizer: two threads that set them fail ("Already borrowed").
        self._tokenizing = threading.Lock()
        self._base = read_config(folder)[0]

    @classmethod
    def opened(cls, folder: Path, record: BestConfig, context: Context) -> Self:
        """The model of `folder` under the runtime of its record. Raises Infeasible where that cannot run here."""
        return cls(folder, record, build.open_recipe(folder, record.recipe, context), context)

    def output(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The head's raw output (B, ...) for token ids: input_ids and attention_mask, (B, L) int64 each."""
        return self._predict(batch)[self._base.output]

    def made_up(self, rows: int, tokens: int) -> dict[str, np.ndarray]:
        """A batch (rows, tokens) of one and the same token, for calls that are timed or only prepare."""
        return {name: np.full((rows, tokens), name != "token_type_ids", dtype=np.int64) for name in self._base.inputs}

    def prepare(self) -> None:
        """Call a runtime that prepares itself for each length of a row on one row of each.

        The first of these calls takes longer than later ones, which a service has no time for.
        """
        if not isinstance(self._predict, PaddedPredict):
            return
        longest = padded_length(int(self.record.config["data"]["max_length"]), self._predict.lengths)
        for length in self._predict.lengths:
            if length <= longest:
                self.output(self.made_up(1, length))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The result of the transformers pipeline of the task."""
        raise NotImplementedError

    def answers(self, rows: Sequence[str | Mapping[str, str]]) -> list[Any]:
        """One answer per row of a table; a row with several columns is a mapping."""
        return list(self(rows))

    @functools.cached_property
    def _data(self) -> Any:
        """The section `data` of its record, as its task has it: checked once, not at every call."""
        return recorded_data(task_named(self.record.recipe.task), self.record.config["data"])

    @property
    def _batch(self) -> int:
        """The batch size it was measured with."""
        return int(self.record.config["workload"]["batch"])

    def _size(self, batch_size: int | None) -> int:
        """Rows per call: `batch_size`, or where that is None the batch size that the model was measured with.

        Raises ValueError where it is no whole number of 1 or more.
        """
        if batch_size is None:
            return self._batch
        check_whole("batch_size", batch_size, 1)
        return int(batch_size)

    def _outputs(self, encoded: Encoded, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, the output for them), `size` rows of similar length at a time."""
        order = by_length(encoded.lengths, size)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield chosen, self.output(encoded.batch(chosen))


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise ValueError where the argument `name` is no whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be a whole number of {least} or more, got {value!r}")


class Unopened:
    """A model that is opened on its first call, because a model that generates holds its weights once already."""

    def __init__(self, folder: Path, recipe: Recipe, context: Context) -> None:
        self._open = functools.partial(build.open_recipe, folder, recipe, context)
        self._alone = threading.Lock()
        self._predict: Predict | None = None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._alone:
            if self._predict is None:
                self._predict = self._open()
        return self._predict(batch)
