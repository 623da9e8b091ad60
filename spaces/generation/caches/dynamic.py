"""The cache that grows with each token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spaces.generation.caches.torch_cache import TorchCache, nbytes_of


class DynamicCache(TorchCache):
    """Keys and values in full precision, copied into larger tensors at each step. The reference of all others."""

    def __init__(self, starts: Tensor) -> None:
        super().__init__(starts)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def nbytes(self) -> int:
        return nbytes_of(tensor for pair in self._layers.values() for tensor in pair)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if layer in self._layers:
            old_keys, old_values = self._layers[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self._layers[layer] = (keys, values)
        return keys, values

    def layers(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Keys and values (B, heads, length, D) by layer. They are not changed later."""
        return dict(self._layers)

    def crop(self, length: int) -> None:
        """Forget the tokens from number `length` on."""
        self._layers = {layer: (k[:, :, :length], v[:, :, :length]) for layer, (k, v) in self._layers.items()}
        self._length = length
