"""Prefix caching: prompts that share a beginning read it once."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from spaces.generation.caches.base import TorchCache, nbytes_of
from spaces.generation.caches.dynamic import DynamicCache
from spaces.generation.caches.static import StaticCache
from spaces.generation.torch_program import TorchProgram

Layers = dict[int, tuple[Tensor, Tensor]]


class PrefixProgram:
    """A program that stores the keys and values of single prompts, and reuses those of the longest common prefix.

    It stores at most `most_bytes` and evicts the least recently used. Batches of several rows are read without reuse.
    Logits differ from those of a prompt that is read whole by rounding only.
    """

    def __init__(self, program: TorchProgram, most_bytes: int) -> None:
        """`most_bytes` bounds the stored keys and values. Raises ValueError unless the cache is dynamic or static."""
        cache = program.new_cache(torch.zeros(1, dtype=torch.int64))
        if not isinstance(cache, DynamicCache | StaticCache):
            raise ValueError(
                f"the cache must be dynamic or static for prefixes to be reused, got a {type(cache).__name__}"
            )
        self._program, self._most_bytes = program, most_bytes
        self._kept: OrderedDict[tuple[int, ...], Layers] = OrderedDict()  # what was used last stands last
        self._alone = threading.Lock()
        self.reused = 0  # tokens that were not read again

    @property
    def nbytes(self) -> int:
        """Bytes of the stored keys and values."""
        return sum(_nbytes(layers) for layers in self._kept.values())

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, TorchCache]:
        if len(input_ids) != 1 or not attention_mask.all():
            return self._program.prefill(input_ids, attention_mask)
        prompt = tuple(input_ids[0].tolist())
        with self._alone:
            common, layers = self._beginning(prompt)
            self.reused += common
        if common:
            logits, cache = self._program.resume(layers, common, input_ids)
        else:
            logits, cache = self._program.prefill(input_ids, attention_mask)
        if isinstance(cache, DynamicCache | StaticCache):
            with self._alone:
                self._keep(prompt, cache.layers())
        return logits, cache

    def decode(self, tokens: np.ndarray, cache: TorchCache) -> np.ndarray:
        return self._program.decode(tokens, cache)

    @property
    def rewinds(self) -> bool:
        return self._program.rewinds

    def extend(self, tokens: np.ndarray, cache: TorchCache) -> np.ndarray:
        return self._program.extend(tokens, cache)

    def truncate(self, cache: TorchCache, length: int) -> None:
        self._program.truncate(cache, length)

    def _beginning(self, prompt: tuple[int, ...]) -> tuple[int, Layers]:
        """(length of the longest prefix in a stored prompt, its layers), the last token left out."""
        common, best = max(((_common(prompt[:-1], one), one) for one in self._kept), default=(0, ()))
        if not common:
            return 0, {}
        self._kept.move_to_end(best)
        return common, self._kept[best]

    def _keep(self, prompt: tuple[int, ...], layers: Layers) -> None:
        for other in [one for one in self._kept if _common(prompt, one) == len(one)]:
            del self._kept[other]  # the longer one stands for it
        self._kept[prompt] = layers
        while self._kept and self.nbytes > self._most_bytes:
            self._kept.popitem(last=False)


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _nbytes(layers: Layers) -> int:
    return nbytes_of(tensor for pair in layers.values() for tensor in pair)
