"""Caches of 8 or 4 bits (Liu et al. 2024, KIVI, arXiv 2402.02750)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spaces.generation.caches.torch_cache import TorchCache, nbytes_of
from spaces.generation.program import TOKEN_GROUP  # tokens that share a scale in each channel of the keys


@dataclass(frozen=True, slots=True)
class Quantised:
    """x (..., N, D) as `codes * scale + lowest`, unsigned codes of 8 bits, or of 4 in pairs of neighbours along N."""

    codes: Tensor  # uint8 (..., N, D), or (..., N / 2, D)
    scale: Tensor  # float16, 1 along the axis that shares it
    lowest: Tensor
    bits: int

    def tensors(self) -> tuple[Tensor, ...]:
        """Codes, scale and lowest value."""
        return self.codes, self.scale, self.lowest

    def values(self, dtype: torch.dtype) -> Tensor:
        """The dequantised x (..., N, D)."""
        codes = self.codes
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], -2).flatten(-3, -2)
        return (codes * self.scale.float() + self.lowest.float()).to(dtype)


def quantise(x: Tensor, bits: int, axis: int) -> Quantised:
    """x (..., N, D) in `bits` bits, one scale for all entries along `axis`. The error is at most half a scale.

    Scale and lowest value are float16. The scale reaches from the lowest value, as rounded, to the highest one.
    """
    x = x.float()
    levels = 2**bits - 1
    low, high = x.amin(axis, keepdim=True), x.amax(axis, keepdim=True)
    # One float16 step down, so that rounding leaves nothing below it; up, that nothing is above the last level.
    step = 2.0**-10
    lowest = (low - step * low.abs() - 1e-6).half()
    scale = ((high - lowest.float()) / levels * (1 + step) + 1e-7).half()
    codes = ((x - lowest.float()) / scale.float()).round().clamp(0, levels).to(torch.uint8)
    if bits == 4:
        codes = codes[..., 0::2, :] | (codes[..., 1::2, :] << 4)
    return Quantised(codes, scale, lowest, bits)


def joined(first: Quantised | None, second: Quantised, axis: int) -> Quantised:
    """`second` appended to `first` along `axis`, which is not the one that shares a scale."""
    if first is None:
        return second
    pairs = zip(first.tensors(), second.tensors(), strict=True)
    codes, scale, lowest = (torch.cat(pair, axis) for pair in pairs)
    return Quantised(codes, scale, lowest, first.bits)


@dataclass(slots=True)
class Layer:
    """One layer: N tokens in few bits, and the newest in full precision.

    Keys (B, heads, N / GROUP, GROUP, D) have a scale a channel and group, since few channels hold all outliers;
    values (B, heads, N, D) have a scale a token.
    """

    keys: Quantised | None
    values: Quantised | None
    recent_keys: Tensor  # (B, heads, newest, D)
    recent_values: Tensor

    def whole(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, dequantised, (B, heads, N + newest, D) each."""
        keys, values = self.recent_keys, self.recent_values
        if self.keys is None or self.values is None:
            return keys, values
        old_keys, old_values = self.keys.values(keys.dtype).flatten(2, 3), self.values.values(values.dtype)
        return torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)

    def shrink(self, count: int, bits: int) -> None:
        """Quantise the `count` oldest tokens of full precision; a multiple of GROUP."""
        old_keys, old_values = self.recent_keys[:, :, :count], self.recent_values[:, :, :count]
        rows, heads, _, size = old_keys.shape
        grouped = quantise(old_keys.reshape(rows, heads, -1, TOKEN_GROUP, size), bits, axis=-2)
        self.keys = joined(self.keys, grouped, 2)
        self.values = joined(self.values, quantise(old_values, bits, axis=-1), 2)
        # Copies, so that the memory of the whole prompt is given back.
        self.recent_keys = self.recent_keys[:, :, count:].clone()
        self.recent_values = self.recent_values[:, :, count:].clone()


class QuantisedCache(TorchCache):
    """Tokens older than the newest `recent` in 8 or 4 bits, GROUP of them at a time.

    The tokens of a prompt attend to each other in full precision. Each later step dequantises the whole cache, so this
    saves memory and no time.
    """

    def __init__(self, starts: Tensor, bits: int, recent: int) -> None:
        super().__init__(starts)
        self._bits, self._recent = bits, recent
        self._layers: dict[int, Layer] = {}

    @property
    def nbytes(self) -> int:
        return sum(
            nbytes_of((layer.recent_keys, layer.recent_values))
            + sum(nbytes_of(part.tensors()) for part in (layer.keys, layer.values) if part is not None)
            for layer in self._layers.values()
        )

    def together(self) -> int:
        newest = next((layer.recent_keys.shape[2] for layer in self._layers.values()), 0)
        return self._recent + TOKEN_GROUP - newest

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        held = self._layers.get(layer)
        if held is None:
            held = self._layers[layer] = Layer(None, None, keys, values)
        else:
            held.recent_keys = torch.cat([held.recent_keys, keys], 2)
            held.recent_values = torch.cat([held.recent_values, values], 2)
        whole = held.whole()
        due = (held.recent_keys.shape[2] - self._recent) // TOKEN_GROUP * TOKEN_GROUP
        if due > 0:
            held.shrink(due, self._bits)
        return whole
