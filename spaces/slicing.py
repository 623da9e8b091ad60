"""Physically smaller modules: the rows and columns of weights that a plan keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from spaces.anatomy import replace_module

KeptIndices = Sequence[int] | None  # None keeps all


@dataclass(frozen=True, slots=True)
class Cut:
    """The kept `rows` (output dimension) and `columns` (input dimension) of one module."""

    rows: KeptIndices = None
    columns: KeptIndices = None


def _like(module: nn.Module, cut: Cut) -> nn.Module:
    """An uninitialised module of the cut size, on the same device and in the same precision."""
    if isinstance(module, nn.Linear):
        rows = module.out_features if cut.rows is None else len(cut.rows)
        columns = module.in_features if cut.columns is None else len(cut.columns)
        smaller: nn.Module = nn.Linear(columns, rows, bias=module.bias is not None)
    elif isinstance(module, nn.Embedding):
        columns = module.embedding_dim if cut.columns is None else len(cut.columns)
        smaller = nn.Embedding(module.num_embeddings, columns, padding_idx=module.padding_idx)
    elif isinstance(module, nn.LayerNorm):
        assert cut.rows is not None
        smaller = nn.LayerNorm(
            len(cut.rows), module.eps, elementwise_affine=module.elementwise_affine, bias=module.bias is not None
        )
    elif hasattr(module, "variance_epsilon"):  # RMSNorm of the Llama family
        assert cut.rows is not None
        smaller = type(module)(len(cut.rows), eps=module.variance_epsilon)
    else:
        raise TypeError(f"cannot cut a {type(module).__name__}")
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return smaller.to(device=weight.device, dtype=weight.dtype)


def reshape(root: nn.Module, cuts: Mapping[str, Cut]) -> None:
    """Replace the modules of `root` at the paths of `cuts` by ones of the cut sizes, with arbitrary weights.

    Raises:
        TypeError: a module that is no linear layer, embedding table or norm.
    """
    for path, cut in cuts.items():
        replace_module(root, path, _like(root.get_submodule(path), cut))


@torch.no_grad()
def fill(root: nn.Module, source: nn.Module, cuts: Mapping[str, Cut], renamed: Mapping[str, str]) -> None:
    """Copy the kept weights of `source` into reshaped `root`; `renamed` gives the path in `source` where it differs."""
    for path, cut in cuts.items():
        target, origin = root.get_submodule(path), source.get_submodule(renamed.get(path, path))
        weight, values = target.weight, origin.weight
        assert isinstance(weight, torch.Tensor) and isinstance(values, torch.Tensor)
        if cut.rows is not None:
            values = values[torch.as_tensor(cut.rows)]
        if cut.columns is not None:
            values = values[:, torch.as_tensor(cut.columns)]
        weight.copy_(values)
        bias = getattr(origin, "bias", None)
        if isinstance(bias, torch.Tensor):
            chosen = bias if cut.rows is None else bias[torch.as_tensor(cut.rows)]
            target.bias.copy_(chosen)  # type: ignore[operator]


def encode_ranges(indices: Sequence[int]) -> str:
    """Sorted indices as text for a plan: [0, 1, 2, 5] is "0-2,5"."""
    parts: list[str] = []
    start = previous = None
    for index in [*indices, None]:
        if previous is not None and index == previous + 1:
            previous = index
            continue
        if start is not None:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = index
    return ",".join(parts)


def decode_ranges(text: str) -> list[int]:
    """The inverse of `encode_ranges`."""
    indices: list[int] = []
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        indices.extend(range(int(low), int(high or low) + 1))
    return indices
