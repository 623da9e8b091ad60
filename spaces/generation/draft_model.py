"""Drafts by a smaller language model (Leviathan et al. 2023, arXiv 2211.17192), which takes the likeliest tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spaces.generation.program import RewindingProgram

#: Tokens of a draft. More cost the draft model's time where one is wrong, fewer cost more calls of the large model.
DRAFTED = 4


class DraftModel:
    """A text that a smaller model continues, through a cache of its own.

    The prompt is read for the first draft, so that the large model's first token does not wait for it. Where a draft
    proves wrong, its tokens are taken out of the cache before the next one.
    """

    def __init__(self, program: RewindingProgram, limit: int, tokens: Sequence[int]) -> None:
        """`limit`: tokens that the cache can hold; a text beyond it gets no drafts."""
        self._program, self._limit = program, limit
        self._text = list(tokens)
        self._read: list[int] = []  # what the cache holds: the beginning of the text, or all of it and of a draft
        self._cache: Any = None

    def add(self, token: int) -> None:
        """Add one token to the end of the text."""
        place = len(self._text)
        if self._read[place : place + 1] != [token]:
            del self._read[place:]
        self._text.append(token)

    def draft(self, most: int) -> list[int]:
        """The `most` tokens that the model would say next; fewer where its cache ends."""
        # The last token of a draft is not read.
        count = min(most, self._limit - len(self._text) + 1)
        tokens: list[int] = []
        unread = self._text[len(self._read) :]
        while len(tokens) < count:
            tokens.append(self._next(unread))
            unread = tokens[-1:]
        return tokens

    def _next(self, unread: list[int]) -> int:
        """Read these tokens; the one that follows."""
        ids = np.array([unread], np.int64)
        if self._cache is None:
            logits, self._cache = self._program.prefill(ids, np.ones_like(ids))
        else:
            if self._cache.length > len(self._read):
                self._program.truncate(self._cache, len(self._read))
            one = len(unread) == 1  # a single step is the faster call
            logits = self._program.decode(ids[0], self._cache) if one else self._program.extend(ids, self._cache)[:, -1]
        self._read += unread
        return int(logits[0].argmax())
