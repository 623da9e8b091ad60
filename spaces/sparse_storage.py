"""Sparse matrices, stored as a bit mask and the non-zero weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.anatomy import replace_module


class Sparse(nn.Module):
    """x -> W x + bias, with W (out, in) zero except for `per_row` weights per row.

    The state is `values` (out, per_row), row by row in column order, and `mask`, a bit per element of W in the same
    order, 8 per byte. W is assembled at each call, so training changes only the kept weights: all others stay zero
    whatever the optimizer does. It is no faster than the dense matrix.
    """

    columns: Tensor  # (out, per_row): the column of each value, derived from the mask
    mask: Tensor

    def __init__(self, in_features: int, out_features: int, per_row: int, bias: bool) -> None:
        super().__init__()
        if not 1 <= per_row <= in_features:
            raise ValueError(f"per_row must be in [1, {in_features}], got {per_row}")
        self.in_features, self.out_features, self.per_row = in_features, out_features, per_row
        self.values = nn.Parameter(torch.zeros(out_features, per_row))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        first = (torch.arange(in_features) < per_row).expand(out_features, -1)
        self.register_buffer("mask", packed(first))
        self.register_buffer("columns", columns_of(self.mask, out_features, in_features, per_row), persistent=False)
        self.register_load_state_dict_post_hook(_find_columns)  # type: ignore[no-untyped-call]

    @property
    def weight(self) -> Tensor:
        """W (out, in)."""
        zeros = self.values.new_zeros(self.out_features, self.in_features)
        return zeros.scatter(1, self.columns, self.values)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    @torch.no_grad()
    def take(self, weight: Tensor, mask: Tensor) -> None:
        """Take the weights of `weight` (out, in) where `mask` (out, in) is true, in `per_row` columns of each row."""
        self.mask.copy_(packed(mask))
        _find_columns(self, None)
        self.values.copy_(weight.gather(1, self.columns.to(weight.device)))

    @torch.no_grad()
    def dense(self) -> nn.Linear:
        """The same matrix as a dense layer."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None).to(self.values)
        linear.weight.copy_(self.weight)
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear.train(self.training)


class TwoOfFour(Sparse):
    """2:4 sparsity: two non-zero weights of every four neighbours along the input, for sparse tensor cores.

    (Mishra et al. 2021, arXiv 2104.08378, section 3.)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, in_features // 2, bias)


def packed(mask: Tensor) -> Tensor:
    """A mask (out, in) as bytes (ceil(out * in / 8),), row by row, the first weight in the lowest bit."""
    flat = functional.pad(mask.reshape(-1).to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    return (flat << torch.arange(8, device=mask.device)).sum(1).to(torch.uint8)


def unpacked(bits: Tensor, out_features: int, in_features: int) -> Tensor:
    """The inverse of `packed`."""
    flat = (bits[:, None] >> torch.arange(8, device=bits.device)) & 1
    return flat.reshape(-1)[: out_features * in_features].view(out_features, in_features).bool()


def columns_of(bits: Tensor, out_features: int, in_features: int, per_row: int) -> Tensor:
    """(out, per_row): the columns that a packed mask keeps, rising in each row.

    Raises:
        RuntimeError: the mask does not keep `per_row` a row.
    """
    mask = unpacked(bits, out_features, in_features)
    if not bool((mask.sum(1) == per_row).all()):
        raise RuntimeError(f"a mask of {out_features} rows must keep {per_row} of {in_features} in each, and does not")
    return mask.nonzero()[:, 1].view(out_features, per_row)


def _find_columns(module: Sparse, _: object) -> None:
    module.columns = columns_of(module.mask, module.out_features, module.in_features, module.per_row)


def best_of_row(scores: Tensor, per_row: int) -> Tensor:
    """(out, in), true for the `per_row` highest of each row; of equals the first."""
    chosen = scores.argsort(dim=1, descending=True, stable=True)[:, :per_row]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, value=True)


def best_of_four(scores: Tensor) -> Tensor:
    """(out, in), true for the two highest of every four neighbours of a row; of equals the first."""
    rows, columns = scores.shape
    return best_of_row(scores.reshape(-1, 4), 2).view(rows, columns)


def sparse_modules(model: nn.Module) -> dict[str, Sparse]:
    """All sparse modules of `model` by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Sparse)}


def expand(model: nn.Module) -> None:
    """Replace all sparse modules of `model` by dense ones, in place."""
    for path, module in sparse_modules(model).items():
        replace_module(model, path, module.dense())
