"""Matrices of which only some weights are kept: what is stored is a bit for each place, and the weights that stay."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.anatomy import replace_module


class Sparse(nn.Module):
    """x -> W x + bias, with W (out, in) zero but for `kept` weights a row.

    The state is `values` (out, kept), row by row in the order of their columns, and `mask`, a bit for each place of W
    in the same order, 8 a byte. W is put together for each call, so training moves what was kept and nothing else:
    all other places are zero whatever the optimizer does. It is no faster than the whole matrix.
    """

    columns: Tensor  # (out, kept): where each value belongs; follows from the mask
    mask: Tensor

    def __init__(self, in_features: int, out_features: int, kept: int, bias: bool) -> None:
        super().__init__()
        if not 1 <= kept <= in_features:
            raise ValueError(f"kept must be in [1, {in_features}], got {kept}")
        self.in_features, self.out_features, self.kept = in_features, out_features, kept
        self.values = nn.Parameter(torch.zeros(out_features, kept))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        first = (torch.arange(in_features) < kept).expand(out_features, -1)
        self.register_buffer("mask", packed(first))
        self.register_buffer("columns", columns_of(self.mask, out_features, in_features, kept), persistent=False)
        self.register_load_state_dict_post_hook(_find_columns)  # type: ignore[no-untyped-call]

    @property
    def weight(self) -> Tensor:
        """W (out, in)."""
        zeros = self.values.new_zeros(self.out_features, self.in_features)
        return zeros.scatter(1, self.columns, self.values)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    @torch.no_grad()
    def take(self, weight: Tensor, places: Tensor) -> None:
        """Keep of `weight` (out, in) what `places` (out, in; `kept` true a row) says."""
        self.mask.copy_(packed(places))
        _find_columns(self, None)
        self.values.copy_(weight.gather(1, self.columns.to(weight.device)))

    @torch.no_grad()
    def dense(self) -> nn.Linear:
        """The same with its zeros written out."""
        made = nn.Linear(self.in_features, self.out_features, self.bias is not None).to(self.values)
        made.weight.copy_(self.weight)
        if self.bias is not None:
            made.bias.copy_(self.bias)
        return made.train(self.training)


class TwoOfFour(Sparse):
    """Two weights kept of every four neighbours along the input: what sparse tensor cores skip half of.

    (Mishra et al. 2021, arXiv 2104.08378, section 3.)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, in_features // 2, bias)


def packed(mask: Tensor) -> Tensor:
    """A mask (out, in) as bytes (ceil(out * in / 8),), row by row, the first place in the lowest bit."""
    flat = functional.pad(mask.reshape(-1).to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    return (flat << torch.arange(8, device=mask.device)).sum(1).to(torch.uint8)


def unpacked(bits: Tensor, out_features: int, in_features: int) -> Tensor:
    """The inverse of `packed`."""
    flat = (bits[:, None] >> torch.arange(8, device=bits.device)) & 1
    return flat.reshape(-1)[: out_features * in_features].view(out_features, in_features).bool()


def columns_of(bits: Tensor, out_features: int, in_features: int, kept: int) -> Tensor:
    """(out, kept): the columns that a packed mask keeps, rising in each row.

    Raises:
        RuntimeError: the mask does not keep `kept` a row.
    """
    mask = unpacked(bits, out_features, in_features)
    if not bool((mask.sum(1) == kept).all()):
        raise RuntimeError(f"a mask of {out_features} rows must keep {kept} of {in_features} in each, and does not")
    return mask.nonzero()[:, 1].view(out_features, kept)


def _find_columns(module: Sparse, _: object) -> None:
    module.columns = columns_of(module.mask, module.out_features, module.in_features, module.kept)


def best_of_row(scores: Tensor, kept: int) -> Tensor:
    """(out, in), true for the `kept` highest of each row; of equals the first."""
    chosen = scores.argsort(dim=1, descending=True, stable=True)[:, :kept]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, value=True)


def best_of_four(scores: Tensor) -> Tensor:
    """(out, in), true for the two highest of every four neighbours of a row; of equals the first."""
    rows, columns = scores.shape
    return best_of_row(scores.reshape(-1, 4), 2).view(rows, columns)


def sparse_modules(model: nn.Module) -> dict[str, Sparse]:
    """By path from `model`."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Sparse)}


def expand(model: nn.Module) -> None:
    """Put plain matrices in the place of all sparse ones, in place."""
    for path, module in sparse_modules(model).items():
        replace_module(model, path, module.dense())
