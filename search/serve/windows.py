"""How a model reads long texts, and about how many tokens a text has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from search.deliver.read_exported import read_exported
from search.errors import UserError
from search.tasks import recorded_task, task_named

#: Characters of English per token, approximately: rows are queued by length, which need not be exact.
CHARACTERS = 4


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How a model reads a long text: its first `tokens`, or all of it in windows that overlap by `shared` tokens."""

    tokens: int = 512
    shared: int | None = None  # None: the text is cut
    endless: bool = False  # of a language model: whether an answer may go on beyond `tokens`

    def count(self, *texts: str) -> int:
        """The approximate number of windows of a row of these texts, the last of which is cut."""
        before, all_of_it = approximate_tokens(*texts[:-1]), approximate_tokens(*texts)
        if all_of_it <= self.tokens or self.shared is None:
            return 1
        return 1 + math.ceil((all_of_it - self.tokens) / max(self.tokens - before - self.shared, 1))

    def length(self, *texts: str) -> int:
        """The approximate number of tokens that are computed for a row of these texts."""
        count = self.count(*texts)
        return count * self.tokens if count > 1 else min(approximate_tokens(*texts), self.tokens)


def approximate_tokens(*texts: str) -> int:
    """The approximate number of tokens of these texts together."""
    return 1 + sum(map(len, texts)) // CHARACTERS


def windows_of(task: str, folder: Path, device: str = "auto") -> WindowSettings:
    """How a model of a task reads long texts here, by its record and its configuration.

    Raises:
        UserError: it is not the model that was exported.
    """
    record = read_exported(folder)
    if task_named(task).generates:
        from search.serve.pipeline import serving_context
        from search.serve.token_limits import is_endless, most_tokens, used_cache
        from spaces.base import ModelError

        try:
            context = serving_context(record, device)
            tokens = most_tokens(folder, record, context)
            return WindowSettings(tokens, endless=is_endless(used_cache(record, context), tokens))
        except ModelError as error:
            raise UserError(str(error)) from None
    data = record.config["data"]
    shared = data["doc_stride"] if recorded_task(record.config).slides else None
    return WindowSettings(int(data["max_length"]), None if shared is None else int(shared))
