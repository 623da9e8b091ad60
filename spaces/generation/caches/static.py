"""The cache that is allocated once and written in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spaces.generation.caches.torch_cache import TorchCache, nbytes_of
from spaces.generation.program import CacheFullError


class Buffers:
    """Memory for `capacity` tokens of each row, by layer. Each prompt overwrites the one before."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.prompts = 0  # that have used it

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, capacity, D) of a layer, whose heads are those of `like`."""
        if index == len(self.keys):
            rows, heads, _, size = like.shape
            # Zeros: attention multiplies what a mask hides by 0, and memory as it comes may hold NaN.
            self.keys.append(like.new_zeros(rows, heads, self.capacity, size))
            self.values.append(like.new_zeros(rows, heads, self.capacity, size))
        return self.keys[index], self.values[index]


class StaticCache(TorchCache):
    """Keys and values in buffers of a fixed capacity, which a step writes in place, so that addresses do not change."""

    def __init__(self, starts: Tensor, buffers: Buffers) -> None:
        super().__init__(starts)
        buffers.prompts += 1
        self.buffers, self._prompt = buffers, buffers.prompts

    @property
    def nbytes(self) -> int:
        return nbytes_of((*self.buffers.keys, *self.buffers.values))

    def require(self, new: int) -> None:
        if self._prompt != self.buffers.prompts:
            raise RuntimeError("a static cache holds one prompt at a time: a later prompt has overwritten this one")
        if self._length + new > self.buffers.capacity:
            raise CacheFullError(
                f"a static cache of {self.buffers.capacity} tokens must hold prompt and answer, "
                f"got {self._length + new} tokens"
            )

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self.buffers.layer(layer, keys)
        end = self._length + keys.shape[2]
        all_keys[:, :, self._length : end] = keys
        all_values[:, :, self._length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def layers(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Copies of the keys and values (B, heads, length, D) by layer."""
        pairs = zip(self.buffers.keys, self.buffers.values, strict=True)
        return {i: (k[:, :, : self._length].clone(), v[:, :, : self._length].clone()) for i, (k, v) in enumerate(pairs)}

    def crop(self, length: int) -> None:
        """Forget the tokens from number `length` on."""
        self._length = length


class WholeBuffers:
    """The buffers inside a compiled or captured step: one token is written at `at` (1,), and all slots are returned.

    Shapes do not depend on how many tokens there are, so one compilation or capture serves them all.
    """

    is_compileable = False

    def __init__(self, keys: list[Tensor], values: list[Tensor], at: Tensor) -> None:
        self._keys, self._values, self._at = keys, values, at

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self._keys[layer], self._values[layer]
        all_keys.index_copy_(2, self._at, keys)
        all_values.index_copy_(2, self._at, values)
        return all_keys, all_values


def slots_of(keys: Tensor) -> Tensor:
    """Numbers (1, capacity) of the tokens in whole buffers (B, heads, capacity, D)."""
    return torch.arange(keys.shape[2], device=keys.device)[None]
