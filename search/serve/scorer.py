"""A causal language model that gives the likelihood of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.serve.exported_model import ExportedModel
from search.tasks.causal_lm import WindowRows
from search.tasks.documents import Documents
from search.tasks.text_windows import text_windows


class Scorer(ExportedModel):
    """An exported causal language model, as a scorer of texts."""

    def score(self, texts: str | Sequence[str], batch_size: int | None = None) -> Any:
        """{"perplexity", "log_likelihood" (nats), "tokens"} of each text; a single text gives one mapping.

        Args:
            batch_size: windows per call; None: the batch size that the model was measured with.

        Raises:
            TypeError: a text that is not a string.
            ValueError: a text of fewer than two tokens.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        for text in rows:
            if not isinstance(text, str):
                raise TypeError(f"a text must be a string, got {text!r:.80}")
        scores = [self._score(text, self._size(batch_size)) for text in rows]
        return scores[0] if isinstance(texts, str) else scores

    def answers(self, rows: Sequence[str | Mapping[str, str]]) -> list[Any]:
        return list(self.score([row if isinstance(row, str) else row["text"] for row in rows]))

    def _score(self, text: str, size: int) -> dict[str, Any]:
        data = self.record.config["data"]
        with self._tokenizing:
            part = Documents((text,), "the text", whole=False)
            windows = (
                WindowRows(text_windows(self._tokenizer, part, int(data["max_length"]), int(data["doc_stride"])))
                if text
                else None
            )
        if windows is None or not len(windows):
            raise ValueError(f"a text must have at least two tokens, got {text!r:.80}")
        total = 0.0
        for chosen, output in self._outputs(windows.encoded, size):
            for row, one in zip(chosen, output, strict=True):
                start, end = int(windows.windows.first[row]), int(windows.encoded.lengths[row])
                total += float(one[start:end].sum())
        tokens = int(windows.windows.counts.sum())
        return {"perplexity": math.exp(-total / tokens), "log_likelihood": total, "tokens": tokens}
