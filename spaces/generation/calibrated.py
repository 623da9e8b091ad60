"""Integer weights of a causal language model by GPTQ: least error of each matrix's outputs on calibration rows.

Block after block: the inputs of a block are the outputs of the already quantised blocks before it, so that it can
compensate for their errors. Each row passes each block three times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.anatomy import anatomy_of
from spaces.base import TaskModel
from spaces.gptq import groups_by_outputs
from spaces.weight_groups import Groups, integers_to_weights

Call = tuple[tuple[Any, ...], dict[str, Any]]  # what a block is called with beside its hidden states


@torch.inference_mode()
def calibrated(
    model: TaskModel, rows: Sequence[Mapping[str, np.ndarray]], body: int, head: int, others: Sequence[str] = ()
) -> dict[str, Groups]:
    """The integers by path: `body` bits for the matrices in blocks, `head` bits for the output projection.

    Matrices of 32 bits, and the blocks at the paths `others`, are unchanged: those of fp32, and those of 8 bits, whose
    rounding errs by 1/16 of that to 4. `rows` are input_ids and attention_mask (1, L), without padding. The weights in
    the other blocks of `model` become the dequantised integers.
    """
    anatomy = anatomy_of(model.backbone)
    paths = {module: path for path, module in model.named_modules()}
    hidden, calls = _calls(model, list(anatomy.blocks), rows)
    groups_by_linear: dict[str, Groups] = {}
    for index, block in enumerate(anatomy.blocks):
        if body < 32 and paths[block] not in others:
            with _moments([m for m in block.modules() if isinstance(m, nn.Linear)]) as moments:
                for x, by_block in zip(hidden, calls, strict=True):
                    _output(block, x, by_block[index])
            for linear, moment in moments.items():
                groups_by_linear[paths[linear]] = groups = groups_by_outputs(linear.weight, moment, body)
                weight = torch.from_numpy(integers_to_weights(groups, linear.in_features))
                linear.weight = nn.Parameter(weight.to(linear.weight), requires_grad=False)
        hidden = [_output(block, x, by_block[index]) for x, by_block in zip(hidden, calls, strict=True)]
    output = next(m for m in model.modules() if callable(getattr(m, "get_output_embeddings", None)))
    matrix = output.get_output_embeddings()  # type: ignore[operator]
    if head < 32 and isinstance(matrix, nn.Linear):
        norm = anatomy.backbone.get_submodule(anatomy.family.outer_norms[0])
        last = [norm(x)[0] for x in hidden]  # (L, hidden) each
        moment = torch.stack([x.T @ x for x in last]).sum(0) / sum(map(len, last))
        groups_by_linear[paths[matrix]] = groups_by_outputs(matrix.weight, moment, head)
    return groups_by_linear


def _calls(
    model: TaskModel, blocks: Sequence[nn.Module], rows: Sequence[Mapping[str, np.ndarray]]
) -> tuple[list[Tensor], list[list[Call]]]:
    """The hidden states (1, L, hidden) before the first block, by row; and the calls by row and block."""
    hidden: list[Tensor] = []
    calls: list[list[Call]] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        rest = {name: value for name, value in named.items() if name != "hidden_states"}
        if not calls[-1]:
            hidden.append(arguments[0] if arguments else named["hidden_states"])
        calls[-1].append((arguments[1:], rest))

    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    try:
        for row in rows:
            calls.append([])
            tensors = {name: torch.from_numpy(row[name]) for name in ("input_ids", "attention_mask")}
            model.backbone(**tensors, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return hidden, calls


def _output(block: nn.Module, hidden: Tensor, call: Call) -> Tensor:
    result = block(hidden, *call[0], **call[1])
    return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]


@contextmanager
def _moments(linears: Sequence[nn.Linear]) -> Iterator[dict[nn.Linear, Tensor]]:
    """E[x x^T] (in, in) of the inputs of each matrix, complete when the context ends; shared for shared inputs."""
    sums: dict[nn.Linear, Tensor] = {}
    counts: dict[nn.Linear, int] = {}
    first: list[tuple[Tensor, nn.Linear]] = []  # the last input, and the first matrix that read it

    def add(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Linear)
        x: Tensor = arguments[0]
        if first and first[0][0] is x:
            sums[module], counts[module] = sums[first[0][1]], 0
            return
        first[:] = [(x, module)]
        tokens = x.reshape(-1, x.shape[-1])
        sums.setdefault(module, torch.zeros(tokens.shape[1], tokens.shape[1])).add_(tokens.T @ tokens)
        counts[module] = counts.get(module, 0) + len(tokens)

    moments: dict[nn.Linear, Tensor] = {}
    handles = [linear.register_forward_pre_hook(add) for linear in linears]
    try:
        yield moments
        total = max(counts.values(), default=1)
        moments.update({linear: moment / total for linear, moment in sums.items()})
    finally:
        for handle in handles:
            handle.remove()
