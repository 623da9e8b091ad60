"""A window of tokens with attention sinks (Xiao et al. 2023, StreamingLLM, arXiv 2309.17453)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spaces.generation.caches.torch_cache import TorchCache, nbytes_of


class SlidingCache(TorchCache):
    """The first `sinks` tokens of each row and its newest ones, `sinks + window` in all; the rest is forgotten.

    Positions are those within the cache, where the sinks come right before the window. Rotary attention depends on
    differences of positions only, so instead of renumbering the window at each step, the few sinks are rotated forward
    by the number of forgotten tokens. The tokens of a prompt attend to all of it; the cache is cut after that.
    """

    def __init__(self, starts: Tensor, sinks: int, window: int, frequencies: Tensor) -> None:
        """`frequencies` (R / 2,): radians per position of the rotary embedding of R channels."""
        super().__init__(starts)
        self._sinks, self._size, self._frequencies = sinks, sinks + window, frequencies
        self._numbers = torch.empty(len(starts), 0, dtype=torch.int64, device=starts.device)  # (B, T) by slot
        self._padding = starts.clone()  # padded slots at the left of each row
        self._forgotten = torch.zeros_like(starts)  # tokens a row
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def nbytes(self) -> int:
        return nbytes_of(tensor for pair in self._layers.values() for tensor in pair)

    def slots(self, new: int) -> Tensor:
        numbers = torch.arange(self._length, self._length + new, device=self.starts.device)
        return torch.cat([self._numbers, numbers.expand(len(self.starts), -1)], 1)

    def together(self) -> int:
        return max(1, self._size + 1 - self._numbers.shape[1])

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if layer not in self._layers:
            self._layers[layer] = (keys, values)
            return keys, values
        old_keys, old_values = self._layers[layer]
        keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self._layers[layer] = (keys, values)
        if self._forgotten.any():
            turned = rotated(keys[:, :, : self._sinks], self._forgotten, self._frequencies)
            keys = torch.cat([turned, keys[:, :, self._sinks :]], 2)
        return keys, values

    def advance(self, new: int) -> None:
        self._numbers = self.slots(new)
        super().advance(new)
        excess = self._numbers.shape[1] - self._size
        if excess > 0:
            self._forget(excess)

    def _forget(self, excess: int) -> None:
        """Drop `excess` slots of each row: padding first, then what comes after the sinks."""
        padding = self._padding.clamp(max=excess)[:, None]  # (B, 1)
        slot = torch.arange(self._size, device=self.starts.device)[None]
        source = torch.where(slot < self._sinks, slot + padding, slot + excess)  # (B, size)
        self._numbers = self._numbers.gather(1, source)
        self._padding = self._padding - padding[:, 0]
        self._forgotten = self._forgotten + excess - padding[:, 0]
        for layer, pair in self._layers.items():
            keys, values = (t.gather(2, source[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3])) for t in pair)
            self._layers[layer] = (keys, values)


def rotated(keys: Tensor, by: Tensor, frequencies: Tensor) -> Tensor:
    """Keys (B, heads, T, D) moved forward by `by` (B,) positions of a rotary embedding (Su et al. 2021, RoFormer).

    Channel i of the first R / 2 turns with channel i + R / 2; channels beyond R have no position.
    """
    angle = by[:, None, None, None].float() * frequencies  # (B, 1, 1, R / 2)
    half = len(frequencies)
    first, second, rest = keys[..., :half].float(), keys[..., half : 2 * half].float(), keys[..., 2 * half :].float()
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1).to(keys)
