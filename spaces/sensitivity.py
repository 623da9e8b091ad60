"""Sensitivity of blocks to rounding: `bits.fp32_blocks` and `bits.int8_blocks` keep the most sensitive ones wider.

To first order, an error e at the outputs of a matrix changes the log-probability of the predicted class by g . e, with
g its gradient there. With errors that are independent between outputs the expected square of that is the sum of
g^2 e^2. Dong et al. rank blocks by the curvature of the loss (its largest eigenvalue, arXiv 1905.03696; its mean trace
times the squared error of the weights, arXiv 1911.03852); here the diagonal Fisher information stands for the
curvature, and the error is measured on real inputs. The error is that of the rounding that a runtime does: by output,
or for a causal language model by groups.
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
from spaces.weight_groups import WEIGHT_GROUP

SENSITIVITY_FILE = "sensitivity.json"
WatchedLinear = nn.Linear | Sparse
#: Maps a weight (out, in) to the error (out, in) of its rounding.
Rounding = Callable[[Tensor], Tensor]


def by_output(weight: Tensor) -> Tensor:
    """The error of rounding to int8 with a scale for each output."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round() * scale - weight


def by_group(weight: Tensor) -> Tensor:
    """The error of rounding to int4 with a scale and a whole zero point for each group of 32 inputs.

    In int8 it is about 1/16 of that, so that the order of blocks is the same.
    """
    padded = nn.functional.pad(weight, (0, -weight.shape[1] % WEIGHT_GROUP))
    groups = padded.reshape(len(weight), -1, WEIGHT_GROUP)
    low, high = groups.amin(2, keepdim=True).clamp(max=0), groups.amax(2, keepdim=True).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=1e-12)
    error: Tensor = (groups / scale).round() * scale - groups
    return error.flatten(1)[:, : weight.shape[1]]


def measure_sensitivity(
    model: TaskModel,
    batches: Iterable[Mapping[str, Tensor]],
    certainty: Callable[[Tensor, Tensor], Tensor],
    rounding: Rounding = by_output,
) -> dict[str, float]:
    """Score by block, named by its path from `model`: the sum over its matrices, tokens and outputs of g^2 e^2.

    `batches` are inputs by name, (B, L) each. `certainty(output, mask)` is the quantity that an error should not
    change, summed over rows: for a classifier the log-probability of the predicted class. `rounding` gives the errors
    of the weights. Cost: one forward and backward pass, and one product per matrix. Leaves `model` in eval mode with
    its weights frozen.

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


def read(folder: Path, user: str = "bits.fp32_blocks") -> list[str]:
    """The paths of the blocks, the most sensitive first.

    `user` is the knob that needs them, for the message.

    Raises:
        Infeasible: the folder has no `sensitivity.json`, as for a model of an unknown family.
    """
    path = folder / SENSITIVITY_FILE
    if not path.is_file():
        raise Infeasible(f"{user} needs {path}, the order of the blocks, and it is not there")
    return [str(block["path"]) for block in json.loads(path.read_text())["blocks"]]
