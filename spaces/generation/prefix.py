"""Prefix caching: prompts that share a beginning read it once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, TypeGuard

import numpy as np

from spaces.generation.program import Cache, KeysAndValues, Program, ResumingProgram


class PrefixProgram:
    """A program that stores the keys and values of single prompts, and reuses those of the longest common prefix.

    It stores at most `most_bytes` and evicts the least recently used. Batches of several rows are read without reuse.
    Logits differ from those of a prompt that is read whole by rounding only.
    """

    def __init__(self, program: Program, most_bytes: int) -> None:
        """`most_bytes` bounds the stored keys and values. Raises ValueError unless the cache is dynamic or static."""
        if not reusable(program):
            raise ValueError(
                "the cache must be dynamic or static for prefixes to be reused, and this model's is neither"
            )
        self._program, self._most_bytes = program, most_bytes
        self._entries: OrderedDict[tuple[int, ...], KeysAndValues] = OrderedDict()  # what was used last stands last
        self._alone = threading.Lock()
        self.hits = 0  # single prompts whose beginning was stored
        self.misses = 0
        self.reused = 0  # tokens that were not read again
        self._mine = threading.local()

    @property
    def nbytes(self) -> int:
        """Bytes of the stored keys and values."""
        with self._alone:
            return self._nbytes()

    @property
    def newest(self) -> int:
        """Tokens of the prompt that this thread had read last which were not read again."""
        return int(getattr(self._mine, "reused", 0))

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, Cache]:
        self._mine.reused = 0
        if len(input_ids) != 1 or not attention_mask.all():
            return self._program.prefill(input_ids, attention_mask)
        prompt = tuple(input_ids[0].tolist())
        with self._alone:
            common, layers = self._beginning(prompt)
        self._mine.reused = common
        if common:
            logits, cache = self._program.resume(layers, common, input_ids)
        else:
            logits, cache = self._program.prefill(input_ids, attention_mask)
        stored = self._program.stored(cache)
        with self._alone:
            self._keep(prompt, stored)
        return logits, cache

    def decode(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        return self._program.decode(tokens, cache)

    @property
    def rewinds(self) -> bool:
        return self._program.rewinds

    def extend(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        return self._program.extend(tokens, cache)

    def truncate(self, cache: Any, length: int) -> None:
        self._program.truncate(cache, length)

    def _nbytes(self) -> int:
        return sum(_nbytes(layers) for layers in self._entries.values())

    def _beginning(self, prompt: tuple[int, ...]) -> tuple[int, KeysAndValues]:
        """(length of the longest prefix in a stored prompt, its layers), the last token left out."""
        common, best = max(((_common(prompt[:-1], one), one) for one in self._entries), default=(0, ()))
        if not common:
            self.misses += 1
            return 0, {}
        self.hits += 1
        self.reused += common
        self._entries.move_to_end(best)
        return common, self._entries[best]

    def _keep(self, prompt: tuple[int, ...], layers: KeysAndValues) -> None:
        if _nbytes(layers) > self._most_bytes:
            return  # one prompt that does not fit must not remove the others
        for other in [one for one in self._entries if _common(prompt, one) == len(one)]:
            del self._entries[other]  # the longer one stands for it
        self._entries[prompt] = layers
        while self._entries and self._nbytes() > self._most_bytes:
            self._entries.popitem(last=False)


def reusable(program: Program) -> TypeGuard[ResumingProgram]:
    """Whether keys and values of its prompts can be stored and reused."""
    return isinstance(program, ResumingProgram) and program.rewinds


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _nbytes(layers: KeysAndValues) -> int:
    return sum(int(array.nbytes) for pair in layers.values() for array in pair)
