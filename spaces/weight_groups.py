"""Weights as whole numbers with a scale and a zero point for every group of 32 that are added up together."""

from __future__ import annotations

import numpy as np

WEIGHT_GROUP = 32  # weights that share a scale
#: Shares of a group's range that its scale in int4 is sought from, and least-squares steps from each. From the whole
#: range alone more steps end at a larger error; twice as many shares make it 0.2 % smaller.
SCALE_RANGES, SCALE_STEPS = (1.05, 1.0, 0.95, 0.9, 0.85, 0.8), 2
FITTED_ROWS = 512  # of a matrix that are fitted at a time: what is made in between then stays in a CPU's cache

#: (numbers (out, groups, 32) uint8, scales (out, groups), zeros (out, groups) uint8)
Groups = tuple[np.ndarray, np.ndarray, np.ndarray]


def groups_to_integers(weight: np.ndarray, bits: int) -> Groups:
    """`weight` (out, in) in this many bits, at most 8: `scale * (number - zero)` is near it.

    In 8 bits the rounding error is small beside any other, so the scale is that of a group's largest weight and the
    zero point is 128; fewer bits are fitted (`groups_to_int4`).
    """
    if bits not in (4, 8):
        raise ValueError(f"groups of weights are made of 4 or 8 bits, got {bits}")
    chunks = (weight[i : i + FITTED_ROWS] for i in range(0, len(weight), FITTED_ROWS))
    parts = [groups_to_int4(chunk.T) if bits == 4 else _groups_to_int8(chunk) for chunk in chunks]
    numbers, scales, zeros = (np.concatenate(part) for part in zip(*parts, strict=True))
    return numbers, scales, zeros


def _groups_to_int8(weight: np.ndarray) -> Groups:
    groups = grouped(weight)
    scales = np.abs(groups).max(-1) / 127
    scales[scales == 0] = 1
    numbers = (np.rint(groups / scales[..., None]) + 128).astype(np.uint8)
    return numbers, scales.astype(weight.dtype), np.full(scales.shape, 128, np.uint8)


def integers_to_weights(groups: Groups, inputs: int) -> np.ndarray:
    """The dequantised weights (out, inputs) float32 of these groups."""
    numbers, scales, zeros = groups
    weights = scales[..., None] * (numbers.astype(np.float32) - zeros[..., None].astype(np.float32))
    flat: np.ndarray = weights.reshape(len(numbers), -1)[:, :inputs]
    return flat


def grouped(weight: np.ndarray) -> np.ndarray:
    """`weight` (out, in) as (out, groups, 32) float32; a last group that is not full ends in zeros."""
    outputs, inputs = weight.shape
    return np.pad(weight.astype(np.float32), ((0, 0), (0, -inputs % WEIGHT_GROUP))).reshape(outputs, -1, WEIGHT_GROUP)


def groups_to_int4(weight: np.ndarray) -> Groups:
    """(numbers (out, groups, 32), scales (out, groups), zeros (out, groups)) of `weight` (in, out).

    scale * (number - zero) is near the weight; numbers and zeros are whole, 0 to 15, and a last group that is not full
    ends in zeros. For given numbers the best scale, and then the best zero point, has a closed form: the alternation of
    HQQ (Badri & Shaji 2023) with whole zero points, from several ranges (`SCALE_RANGES`). What has the least squared
    error stays, and rounding to nearest over the whole range is among it, so no group is worse than that.

    By hand: 4.7 % less error than ONNX Runtime's own quantizer at the same time of a call; its HQQ takes 2.4 times as
    long (`benchmarks/results/2026-11-30-int4-quantizer`).

    HQQ's norm below 1 in place of squares made neither error smaller.
    """
    groups = grouped(weight.T)
    low, high = np.minimum(groups.min(-1), 0)[..., None], np.maximum(groups.max(-1), 0)[..., None]
    whole = np.where(high > low, (high - low) / 15, 1)
    zeros = np.rint(-low / whole)  # of any share of the range too
    best = (_nearest(groups, whole, zeros), whole, zeros)
    least = _lost(groups, *best)
    for share in SCALE_RANGES:
        scale, zero = share * whole, zeros
        for _ in range(SCALE_STEPS):
            steps = _nearest(groups, scale, zero) - zero
            squares = (steps**2).sum(-1, keepdims=True)
            fitted = (groups * steps).sum(-1, keepdims=True) / np.maximum(squares, 1)
            scale = np.where(fitted > 0, fitted, scale)  # a group of zeros has no scale of its own
            zero = np.clip(np.rint((_nearest(groups, scale, zero) - groups / scale).mean(-1, keepdims=True)), 0, 15)
            candidate = (_nearest(groups, scale, zero), scale, zero)
            lost = _lost(groups, *candidate)
            best = tuple(np.where(lost < least, new, old) for new, old in zip(candidate, best, strict=True))
            least = np.minimum(lost, least)
    numbers, scales, zeros = best
    return numbers.astype(np.uint8), scales[..., 0].astype(weight.dtype), zeros[..., 0].astype(np.uint8)


def _nearest(groups: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.clip(np.rint(groups / scale + zero), 0, 15)
    return rounded


def _lost(groups: np.ndarray, numbers: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Squared error a group (out, groups, 1)."""
    lost: np.ndarray = ((scale * (numbers - zero) - groups) ** 2).sum(-1, keepdims=True)
    return lost


def pairs(numbers: np.ndarray) -> np.ndarray:
    """Numbers below 16 (..., n) two a byte (..., ceil(n / 2)), the first of two in the lower bits."""
    even = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, numbers.shape[-1] % 2)])
    packed: np.ndarray = even[..., ::2] | even[..., 1::2] << 4
    return packed
