"""A text embedder with the results of `SentenceTransformer.encode`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.serve.exported_model import ExportedModel
from search.tasks.tokens import encode


class Embedder(ExportedModel):
    """An exported embedding model."""

    def __call__(self, texts: str | Sequence[str], batch_size: int | None = None) -> np.ndarray:
        """Embeddings (N, D) float32 of N texts, or (D,) of a single one.

        Args:
            batch_size: texts per call; None: the batch size that the model was measured with.

        Raises:
            TypeError: a text that is not a string.
            ValueError: a text without tokens.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        for text in rows:
            if not isinstance(text, str):
                raise TypeError(f"a text must be a string, got {text!r:.80}")
        if not rows:
            return np.zeros((0, 0), dtype=np.float32)
        with self._tokenizing:
            encoded = encode(self._tokenizer, rows, None, int(self.record.config["data"]["max_length"]))
        if not encoded.lengths.all():
            at = int(encoded.lengths.argmin())
            raise ValueError(f"a text must have at least one token, got {rows[at]!r} (number {at + 1})")
        outputs: list[Any] = [None] * len(rows)
        for chosen, output in self._outputs(encoded, self._size(batch_size)):
            for row, one in zip(chosen, output, strict=True):
                outputs[row] = one
        embeddings = np.stack(outputs).astype(np.float32)
        return embeddings[0] if isinstance(texts, str) else embeddings

    def answers(self, rows: Sequence[str | Mapping[str, str]]) -> list[Any]:
        return self([row if isinstance(row, str) else row["text"] for row in rows]).tolist()  # type: ignore[no-any-return]
