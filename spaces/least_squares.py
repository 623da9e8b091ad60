"""Least-squares reconstruction: the weights of a pruned matrix that best reproduce its former outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RIDGE = 1e-2  # of the mean variance of the kept inputs


@torch.no_grad()
def compensate(after: nn.Linear, before: nn.Linear, columns: list[int], moment: Tensor, mean: Tensor) -> None:
    """Set `after`, which reads only the inputs `columns` (K), to the least-squares approximation of `before`.

    Minimises E |W x + b - W' x_K - b'|^2 in W' and b': W' = W S[:, K] S[K, K]^-1 with S the covariance of x, and
    b' = b + W m - W' m_K (without a bias: S the second moment). It contains the per-unit scales of Kwon et al.
    2022, section 4.4, as the special case of a diagonal W' W^-1. `moment` (in, in) is E[x x^T], `mean` (in,) E[x].
    Cost: one (K, K) Cholesky factorisation in float64.
    """
    w = before.weight.double().cpu()
    second, first = moment.double(), mean.double()
    spread = second if before.bias is None else second - torch.outer(first, first)
    inside = spread[columns][:, columns]
    # A little of the diagonal: what the calibration tokens hardly vary in must not be extrapolated from.
    ridge = RIDGE * inside.diagonal().mean().clamp(min=1e-12)
    factor = torch.linalg.cholesky(inside + ridge * torch.eye(len(columns), dtype=torch.float64))
    # The ridge pulls towards the weights as they were, so shrink the difference, not the weights.
    gap = w @ spread[:, columns] - w[:, columns] @ inside
    tuned = w[:, columns] + torch.cholesky_solve(gap.T, factor).T
    after.weight.copy_(tuned)
    if before.bias is not None:
        after.bias.copy_(before.bias.double().cpu() + w @ first - tuned @ first[columns])
