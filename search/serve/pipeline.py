"""Loading an exported model: what it takes and returns is what a transformers pipeline of its task does."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from search.deliver.best_config import BestConfig
from search.deliver.exported import read_exported
from search.errors import UserError
from search.tasks import task_named
from search.tasks.tokens import by_length, encode, tokenizer
from spaces import build
from spaces.base import ModelError, read_config
from spaces.errors import Infeasible
from spaces.runtime import Context, Predict

Text = str | tuple[str, str] | Mapping[str, str]


class Model:
    """An exported model with its tokenizer, under the runtime and precision of its record. Threads may share it."""

    def __init__(self, folder: Path, record: BestConfig, predict: Predict, context: Context) -> None:
        self.folder, self.record, self.context = folder, record, context
        self._predict = predict
        self._tokenizer = tokenizer(folder)
        #: Truncation and padding are state of a fast tokenizer: two threads that set them fail ("Already borrowed").
        self._tokenizing = threading.Lock()
        self._task = task_named(record.recipe.task)
        self._base = read_config(folder)[0]

    @property
    def labels(self) -> tuple[str, ...]:
        return self._base.labels

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Raw outputs (B, C) for token ids: input_ids and attention_mask, (B, L) int64 each."""
        return self._predict(batch)["logits"]

    def __call__(
        self,
        texts: Text | Sequence[Text],
        batch_size: int | None = None,
        *,
        top_k: int | Literal["best"] | None = "best",
        function_to_apply: str | None = None,
    ) -> Any:
        """What the pipeline returns: [{"label": ..., "score": ...}, ...], one a text.

        A single string gives a list of one, a single mapping its answer alone. With `top_k` every text gives a list
        of that many labels, best first, and a single text that list alone.

        Args:
            texts: a string or a list of them; for tasks on pairs, (text, second text) or
                {"text": ..., "text_pair": ...}.
            batch_size: rows run together; the batch size the model was measured with when not given.
            top_k: labels a text, None for all.
            function_to_apply: "softmax", "sigmoid" or "none"; by the model's problem type when not given.

        Raises:
            TypeError: something else than texts.
            ValueError: a text without tokens, or an argument that is none of the above.
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
        self, rows: Sequence[Text], batch_size: int | None, top_k: int | None, function: str | None
    ) -> list[list[dict[str, Any]]]:
        first, second = _columns(rows)
        limit = int(self.record.config["data"]["max_length"])
        with self._tokenizing:
            encoded = encode(self._tokenizer, first, second, limit)
        if not encoded.lengths.all():
            at = int(encoded.lengths.argmin())
            raise ValueError(f"a text must have at least one token, got {first[at]!r} (number {at + 1})")
        problem = self._base.config.get("problem_type")
        size = batch_size or int(self.record.config["workload"]["batch"])
        order = by_length(encoded.lengths, size)
        replies: list[list[dict[str, Any]]] = [[]] * len(rows)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            outputs = self._predict(encoded.batch(chosen))
            answers = self._task.reply(outputs, self.labels, problem, function, top_k)
            for row, answer in zip(chosen, answers, strict=True):
                replies[row] = answer
        return replies


def _columns(rows: Sequence[Text]) -> tuple[list[str], list[str] | None]:
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


def load(folder: str | Path, device: str = "auto") -> Model:
    """The model that a search exported to `folder`, ready to call.

    Its files are held against the digests of its record first (`search.deliver.exported.read_exported`).

    Args:
        device: "cpu", "cuda", or "auto": the device it was measured on when this machine has it, else the CPU.

    Raises:
        UserError: no such folder, or its files are missing, edited, foreign or pickled, or its runtime is not
            here (the message has the install command).
    """
    where = Path(folder).expanduser()
    record = read_exported(where)
    context = Context(device=_device(record, device), threads=0)
    try:
        read_config(where)
        predict = build.open_predict(where, record.recipe.runtime.name, build.precision_of(record.recipe), context)
        return Model(where, record, predict, context)
    except ModelError as error:
        raise UserError(str(error)) from None
    except Infeasible as reason:
        raise UserError(f"{where}: cannot run on this machine: {reason}") from None


def _device(record: BestConfig, wanted: str) -> str:
    import torch

    here = torch.cuda.is_available()
    if wanted == "cuda" and not here:
        raise UserError("device: must be a device of this machine, got cuda, and torch sees none")
    if wanted != "auto":
        return wanted
    measured = str(record.conditions["hardware"].get("device", "cpu"))
    return "cuda" if measured == "cuda" and here else "cpu"
