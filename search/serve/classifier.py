"""A classifier with the arguments and results of transformers' text-classification pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from search.serve.exported_model import ExportedModel
from search.tasks.classification import reply
from search.tasks.tokens import encode

ClassifiedText = str | tuple[str, str] | Mapping[str, str]


class Classifier(ExportedModel):
    """An exported classifier."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the model's outputs."""
        return self._base.output_names

    def __call__(
        self,
        texts: ClassifiedText | Sequence[ClassifiedText],
        batch_size: int | None = None,
        *,
        top_k: int | Literal["best"] | None = "best",
        function_to_apply: str | None = None,
    ) -> Any:
        """The result of the pipeline: [{"label": ..., "score": ...}, ...], one per text.

        A single string gives a list of one answer, a single mapping the answer itself. With `top_k` every text gives a
        list of that many labels, best first, and a single text just that list.

        Args:
            texts: a string or a list of them; for tasks on pairs, (text, second text) or
                {"text": ..., "text_pair": ...}.
            batch_size: rows per call; None: the batch size that the model was measured with.
            top_k: labels per text; None: all labels.
            function_to_apply: "softmax", "sigmoid" or "none"; None: that of the model's problem type.

        Raises:
            TypeError: texts of another type.
            ValueError: a text without tokens, or an invalid argument.
        """
        function = None if function_to_apply is None else str(function_to_apply).lower()
        if function not in (None, "softmax", "sigmoid", "none"):
            raise ValueError(f"function_to_apply must be softmax, sigmoid or none, got {function_to_apply!r}")
        if top_k not in ("best", None) and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k must be a whole number of 1 or more, or None, got {top_k!r}")
        single = isinstance(texts, str | tuple | Mapping)
        rows = [texts] if isinstance(texts, str | tuple | Mapping) else list(texts)
        wanted = 1 if top_k == "best" else top_k
        replies = self._replies(rows, batch_size, wanted, function) if rows else []
        if top_k == "best":
            best = [reply[0] for reply in replies]
            return best[0] if isinstance(texts, Mapping) else best
        return replies[0] if single else replies

    def _replies(
        self, rows: Sequence[ClassifiedText], batch_size: int | None, top_k: int | None, function: str | None
    ) -> list[list[dict[str, Any]]]:
        first, second = _columns(rows)
        limit = int(self.record.config["data"]["max_length"])
        with self._tokenizing:
            encoded = encode(self._tokenizer, first, second, limit)
        if not encoded.lengths.all():
            at = int(encoded.lengths.argmin())
            raise ValueError(f"a text must have at least one token, got {first[at]!r} (number {at + 1})")
        problem = self._base.config.get("problem_type")
        replies: list[list[dict[str, Any]]] = [[]] * len(rows)
        for chosen, logits in self._outputs(encoded, self._size(batch_size)):
            answers = reply(logits, self.labels, problem, function, top_k)
            for row, answer in zip(chosen, answers, strict=True):
                replies[row] = answer
        return replies


def _columns(rows: Sequence[ClassifiedText]) -> tuple[list[str], list[str] | None]:
    """First and second texts of every row."""
    pairs: list[tuple[str, str | None]] = []
    for row in rows:
        if isinstance(row, str):
            pairs.append((row, None))
        elif isinstance(row, Mapping) and isinstance(row.get("text"), str):
            pairs.append((row["text"], row.get("text_pair")))
        elif isinstance(row, tuple | list) and len(row) == 2 and all(isinstance(part, str) for part in row):
            pairs.append((row[0], row[1]))
        else:
            raise TypeError(f"a text must be a string or a pair of strings, got {row!r:.80}")
    first = [text for text, _ in pairs]
    second = [text for _, text in pairs if text is not None]
    if second and len(second) != len(first):
        raise TypeError("either every row has a second text or none has")
    return first, second or None
