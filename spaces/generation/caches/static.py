"""The cache that is allocated once and written in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spaces.generation.caches.torch_cache import TorchCache, nbytes_of
from spaces.generation.program import CacheFullError


class Buffers:
    """Memory for `capacity` tokens a row, by layer, of the largest batch so far. Each prompt overwrites the one before.

    A smaller batch uses the first rows. A larger one has the memory allocated anew, and the earlier one is given back.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.prompts = 0  # that have used it
        self._rows = 0
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._views: dict[int, tuple[list[Tensor], list[Tensor]]] = {}  # by number of rows

    @property
    def nbytes(self) -> int:
        return nbytes_of(tensor for pair in self._layers for tensor in pair)

    def of(self, rows: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values (rows, heads, capacity, D) by layer, which `layer` adds; the same until a larger batch."""
        if rows > self._rows:
            self._rows = rows
            self._layers.clear()
            self._views.clear()
        return self._views.setdefault(rows, ([], []))

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer for as many rows and heads as `like` (rows, heads, any, D) has."""
        rows, heads, _, size = like.shape
        keys, values = self.of(rows)
        if index == len(self._layers):
            self._layers.append(self._allocated((self._rows, heads, self.capacity, size), like))
        if index == len(keys):
            all_keys, all_values = self._layers[index]
            keys.append(all_keys[:rows])
            values.append(all_values[:rows])
        return keys[index], values[index]

    def _allocated(self, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
        try:
            # Zeros: attention multiplies what a mask hides by 0, and memory as it comes may hold NaN.
            return like.new_zeros(shape), like.new_zeros(shape)
        except Exception:  # out of memory, which a smaller batch may fit into
            self._rows = 0
            self._layers.clear()
            self._views.clear()
            raise


class StaticCache(TorchCache):
    """Keys and values in buffers of a fixed capacity, which a step writes in place, so that addresses do not change."""

    def __init__(self, starts: Tensor, buffers: Buffers) -> None:
        super().__init__(starts)
        buffers.prompts += 1
        self._buffers, self._prompt = buffers, buffers.prompts
        self.keys, self.values = buffers.of(len(starts))

    @property
    def nbytes(self) -> int:
        return self._buffers.nbytes

    def require(self, new: int) -> None:
        if self._prompt != self._buffers.prompts:
            raise RuntimeError("a static cache holds one prompt at a time: a later prompt has overwritten this one")
        if self._length + new > self._buffers.capacity:
            raise CacheFullError(
                f"a static cache of {self._buffers.capacity} tokens must hold prompt and answer, "
                f"got {self._length + new} tokens"
            )

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self._buffers.layer(layer, keys)
        end = self._length + keys.shape[2]
        all_keys[:, :, self._length : end] = keys
        all_values[:, :, self._length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def layers(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Copies of the keys and values (B, heads, length, D) by layer."""
        pairs = zip(self.keys, self.values, strict=True)
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
