"""Sensitivity of blocks to rounding: `bits.fp32_blocks` keeps the most sensitive ones in fp32.

To first order, an error e at the outputs of a matrix changes the log-probability of the predicted class by g . e, with
g its gradient there. With errors that are independent between outputs the expected square of that is the sum of
g^2 e^2. Dong et al. rank blocks by the curvature of the loss (its largest eigenvalue, arXiv 1905.03696; its mean trace
times the squared error of the weights, arXiv 1911.03852); here the diagonal Fisher information stands for the
curvature, and the error is measured on real inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy, anatomy_of
from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.sparse_storage import Sparse

SENSITIVITY_FILE = "sensitivity.json"
WatchedLinear = nn.Linear | Sparse


def measure_sensitivity(
    model: TaskModel, batches: Iterable[Mapping[str, Tensor]], certainty: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, float]:
    """Score by block, named by its path from `model`: the sum over its matrices, tokens and outputs of g^2 e^2.

    `batches` are inputs by name, (B, L) each. `certainty(output, mask)` is the quantity that an error should not
    change,
    summed over rows: for a classifier the log-probability of the predicted class. Cost: one forward and backward pass,
    and one product per matrix. Leaves `model` in eval mode with its weights frozen.

    Raises:
        Infeasible: a model of an unknown family.
    """
    anatomy = anatomy_of(model.backbone)
    paths = {id(module): path for path, module in model.named_modules()}
    scores = {paths[id(block)]: 0.0 for block in anatomy.blocks}
    owners = {
        linear: paths[id(block)]
        for block in anatomy.blocks
        for linear in block.modules()
        if isinstance(linear, nn.Linear | Sparse)  # of a low-rank pair both
    }
    errors = {linear: rounding(linear.weight.detach()) for linear in owners}

    def add(linear: WatchedLinear, inputs: Tensor, gradients: Tensor) -> None:
        scores[owners[linear]] += float((gradients * (inputs @ errors[linear].T)).square().sum())

    model.eval().requires_grad_(False)  # gradients of outputs are all that is wanted
    for inputs in batches:
        with _watching(anatomy, owners, inputs["attention_mask"].bool(), add), torch.enable_grad():
            sure = certainty(model(**inputs), inputs["attention_mask"])
            sure.backward()  # type: ignore[no-untyped-call] # rows do not mix: each token gets its own row's gradient
    return scores


def rounding(weight: Tensor) -> Tensor:
    """The error (out, in) of rounding `weight` (out, in) to int8 with a scale for each output."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round() * scale - weight


@contextmanager
def _watching(
    anatomy: Anatomy,
    linears: Iterable[WatchedLinear],
    keep: Tensor,
    add: Callable[[WatchedLinear, Tensor, Tensor], None],
) -> Iterator[None]:
    """While open, a backward pass calls `add` with inputs (tokens, in) and gradients (tokens, out) of each matrix."""

    watched: set[WatchedLinear] = set()

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear | Sparse)
        if module in watched:
            return  # DeBERTa's queries and keys of positions, behind those of tokens
        watched.add(module)
        x: Tensor = args[0].detach()[keep]
        output.register_hook(lambda g: add(module, x, g[keep]))  # type: ignore[no-untyped-call]

    handles = [linear.register_forward_hook(hook) for linear in linears]
    # With all weights frozen nothing would need a gradient: it starts where the tokens enter.
    for path in anatomy.family.embeddings[:1]:
        table = anatomy.backbone.get_submodule(path)
        handles.append(table.register_forward_hook(lambda _m, _a, out: out.requires_grad_(True)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def write(folder: Path, scores: Mapping[str, float]) -> None:
    """`sensitivity.json`: the blocks with their scores, the most sensitive first."""
    ordered = sorted(scores.items(), key=lambda item: -item[1])
    blocks = [{"path": path, "score": score} for path, score in ordered]
    (folder / SENSITIVITY_FILE).write_text(json.dumps({"blocks": blocks}, indent=1))


def read(folder: Path) -> list[str]:
    """The paths of the blocks, the most sensitive first.

    Raises:
        Infeasible: the folder has no `sensitivity.json`, as for a model of an unknown family.
    """
    path = folder / SENSITIVITY_FILE
    if not path.is_file():
        raise Infeasible(f"bits.fp32_blocks needs {path}, the order of the blocks, and it is not there")
    return [str(block["path"]) for block in json.loads(path.read_text())["blocks"]]
