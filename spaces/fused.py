"""Splits the fused matrices of transformers models, so that each part can be cut by its role."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy, replace_module
from spaces.errors import Infeasible
from spaces.families import family_of


class Parts(nn.Module):
    """x -> the concatenated outputs of several matrices, as the fused matrix gives them."""

    def __init__(self, parts: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.children()], -1)


def take_apart(backbone: nn.Module) -> None:
    """Replace every fused matrix of a known family by `Parts`, and every transposed one by an `nn.Linear`.

    The outputs stay the same. A model of another family is left as it is.
    """
    from transformers.pytorch_utils import Conv1D

    try:
        family = family_of(str(getattr(getattr(backbone, "config", None), "model_type", "")))
    except Infeasible:
        return
    for block in Anatomy(backbone, family).blocks:
        transposed = [path for path, module in block.named_modules() if isinstance(module, Conv1D)]
        for path in transposed:
            fused = block.get_submodule(path)
            replace_module(block, path, _linear(fused.weight.T, fused.bias))  # type: ignore[arg-type]
        for path, names in family.fused.items():
            whole = block.get_submodule(path)
            assert isinstance(whole, nn.Linear)
            weights = whole.weight.chunk(len(names))
            biases = [None] * len(names) if whole.bias is None else whole.bias.chunk(len(names))
            linears = map(_linear, weights, biases)
            replace_module(block, path, Parts(dict(zip(names, linears, strict=True))))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A matrix of its own memory with these weights (out, in)."""
    out, columns = weight.shape
    linear = nn.Linear(columns, out, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    return linear
