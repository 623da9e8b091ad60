"""Group-wise integer weights that minimise the error of a matrix's outputs on calibration inputs.

With H = E[x x^T] of the inputs x of a matrix W (out, in), integers that represent Q have the error E|Wx - Qx|^2 =
tr((W - Q) H (W - Q)^T). GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds one column after the other, and the later
columns compensate for the error of each: W[:, j+1:] -= e U[j, j+1:], e = (w - q) / U[j, j], with U the upper
Cholesky factor of H^-1. The error is then the sum of e^2, so the scale and zero point of a group are fitted by least
squares weighted by 1 / U[j, j]^2, just before its columns are rounded.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spaces.weight_groups import WEIGHT_GROUP, Groups

#: Damping: this share of the mean diagonal of H is added to the diagonal.
DAMPING = 0.01
#: Shares of a group's range from which the fit of its 4-bit scale starts, and the least-squares steps from each.
GPTQ_RANGES, GPTQ_STEPS = (0.65, 0.75, 0.85, 0.95, 1.0, 1.05), 2


def groups_by_outputs(weight: Tensor, moment: Tensor, bits: int) -> Groups:
    """`weight` (out, in) as integers in groups of 32 inputs, as `spaces.weight_groups.groups_to_integers`, by GPTQ.

    `moment` (in, in) is E[x x^T] of its inputs. Scales of 8 bits are those of the largest weight, with zero point 128.
    """
    if bits not in (4, 8):
        raise ValueError(f"groups of weights are made of 4 or 8 bits, got {bits}")
    left = weight.detach().to("cpu", torch.float32).clone()
    outputs, inputs = left.shape
    factor = _factor(moment)
    count = -(-inputs // WEIGHT_GROUP)
    zero_of_empty = 128 if bits == 8 else 0
    numbers = torch.full((outputs, count * WEIGHT_GROUP), float(zero_of_empty))
    scales, zeros = torch.empty(outputs, count), torch.empty(outputs, count)
    most = 2**bits - 1
    for group in range(count):
        columns = slice(group * WEIGHT_GROUP, min(inputs, (group + 1) * WEIGHT_GROUP))
        block, upper = left[:, columns].clone(), factor[columns, columns]
        scale, zero = _symmetric(block) if bits == 8 else _fitted(block, upper.diagonal() ** -2)
        errors = torch.empty_like(block)
        for j in range(block.shape[1]):
            number = (block[:, j] / scale + zero).round().clamp(0, most)
            errors[:, j] = (block[:, j] - scale * (number - zero)) / upper[j, j]
            block[:, j:] -= errors[:, j, None] * upper[j, j:]
            numbers[:, columns.start + j] = number
        left[:, columns.stop :] -= errors @ factor[columns, columns.stop :]
        if columns.stop - columns.start < WEIGHT_GROUP:  # a last group that is not full ends in weights of 0
            numbers[:, columns.stop :] = zero[:, None]
        scales[:, group], zeros[:, group] = scale, zero
    shaped = numbers.reshape(outputs, count, WEIGHT_GROUP).to(torch.uint8).numpy()
    return shaped, scales.numpy().astype(np.float32), zeros.to(torch.uint8).numpy()


def _factor(moment: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped moment, float32. Inputs that are always 0 affect no others."""
    damped = moment.to("cpu", torch.float64).clone()
    diagonal = damped.diagonal()
    diagonal += DAMPING * diagonal.mean().clamp(min=1e-12)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _symmetric(block: Tensor) -> tuple[Tensor, Tensor]:
    scale = block.abs().amax(1) / 127
    return torch.where(scale > 0, scale, torch.ones_like(scale)), torch.full_like(scale, 128)


def _fitted(block: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, zero point) (out,) of 4 bits with the least squared error of `block` (out, n) weighted by `weights` (n,).

    As `spaces.weight_groups.groups_to_int4`: for fixed integers the two have a closed form; several ranges are tried.
    """
    low, high = block.amin(1, keepdim=True).clamp(max=0), block.amax(1, keepdim=True).clamp(min=0)
    whole = torch.where(high > low, (high - low) / 15, torch.ones_like(high))
    start = (-low / whole).round()
    best, least = (whole, start), _lost(block, weights, whole, start)
    for share in GPTQ_RANGES:
        scale, zero = share * whole, start
        for _ in range(GPTQ_STEPS):
            steps = _nearest(block, scale, zero) - zero
            fitted = (block * steps * weights).sum(1, keepdim=True)
            fitted /= (steps**2 * weights).sum(1, keepdim=True).clamp(min=1e-20)
            scale = torch.where(fitted > 0, fitted, scale)
            gaps = (_nearest(block, scale, zero) - block / scale) * weights
            zero = (gaps.sum(1, keepdim=True) / weights.sum()).round().clamp(0, 15)
            lost = _lost(block, weights, scale, zero)
            best = tuple(torch.where(lost < least, *pair) for pair in zip((scale, zero), best, strict=True))  # type: ignore[assignment]
            least = torch.minimum(lost, least)
    return best[0][:, 0], best[1][:, 0]


def _nearest(block: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return (block / scale + zero).round().clamp(0, 15)


def _lost(block: Tensor, weights: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return ((scale * (_nearest(block, scale, zero) - zero) - block) ** 2 * weights).sum(1, keepdim=True)
