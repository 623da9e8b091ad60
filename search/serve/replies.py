"""Answers for tasks without a model class of their own, by the task's own encoding and replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.errors import UserError
from search.serve.exported_model import ExportedModel
from search.tasks import task_named


class Replies(ExportedModel):
    """An exported model of any task with `Task.asked` and `replies` of its `Rows`."""

    def __call__(self, rows: Any, batch_size: int | None = None) -> Any:
        """A reply for each of a list of rows, or that of a single one.

        Args:
            batch_size: rows run together; the batch size the model was measured with when not given.

        Raises:
            TypeError, ValueError: the rows are not what the task takes.
        """
        asked = [rows] if isinstance(rows, str | Mapping) else list(rows)
        if not asked:
            return []
        task = task_named(self.record.recipe.task)
        part = task.asked(asked)
        try:
            with self._tokenizing:
                encoded_rows = task.encode(self._tokenizer, part, self._data, self._base.output_names)
        except UserError as error:
            raise ValueError(str(error)) from None
        encoded = encoded_rows.encoded
        if not encoded.lengths.all():
            raise ValueError(f"a row must have at least one token, got {part.shown(int(encoded.lengths.argmin()))}")
        outputs: list[Any] = [None] * len(encoded)
        for chosen, batch in self._outputs(encoded, self._size(batch_size)):
            for row, one in zip(chosen, batch, strict=True):
                outputs[row] = one[: encoded.lengths[row]] if self._base.per_token else one
        joined = np.concatenate(outputs) if self._base.per_token else np.stack(outputs)
        replies = list(encoded_rows.replies(joined))
        return replies[0] if isinstance(rows, str | Mapping) else replies

    def answers(self, rows: Sequence[str | Mapping[str, str]]) -> list[Any]:
        return list(self(list(rows)))
