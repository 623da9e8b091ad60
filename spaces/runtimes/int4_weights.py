"""The int4 weights of a causal language model under PyTorch: made once, and stored in a file beside the model's own.

They are the groups of 32 that the graphs of ONNX Runtime have: the same integers, fitted to the same fp32 weights, or
with error feedback (`spaces.gptq`). To fit them takes seconds to minutes. The file has, by the path of a matrix, its
"numbers" (two a byte), "scales" and "zeros", and all other tensors in bf16 under their own names. An output matrix of
another precision (`bits.head`) is in bf16, with the values of int8 where that is its precision; so are the matrices of
blocks that the plan spares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces import build
from spaces.axes.low_rank import LowRankEmbedding
from spaces.base import ModelError, TaskModel, is_causal
from spaces.code_digest import code_digest
from spaces.errors import Infeasible
from spaces.heads import Causal
from spaces.knob import Plan
from spaces.runtimes import int4
from spaces.runtimes.atomic_file import written_whole
from spaces.runtimes.causal_onnx import matrix_precision
from spaces.sparse_storage import expand
from spaces.weight_groups import WEIGHT_GROUP, Groups, integers_to_weights, pairs

INT4_FOLDER = "pytorch"
#: What makes the integers, of this program.
INT4_WRITERS = (
    "spaces.runtimes.int4_weights",
    "spaces.runtimes.causal_onnx",
    "spaces.generation.calibrated",
    "spaces.generation.onnx_linear",
    "spaces.gptq",
    "spaces.weight_groups",
)
NUMBERS, SCALES, ZEROS = ".numbers", ".scales", ".zeros"


def int4_file(plan: Plan) -> str:
    """The file of an int4 plan in a model folder: pytorch/int4.safetensors, pytorch/int4-w2-h8-gptq.safetensors."""
    fp32_blocks = f"-w{plan['fp32_blocks']}" if plan.get("fp32_blocks") else ""
    head = f"-h{str(plan['head']).lstrip('intfp')}" if "head" in plan else ""
    rounding = f"-{plan['rounding']}" if "rounding" in plan else ""
    return f"{INT4_FOLDER}/{plan['precision']}{fp32_blocks}{head}{rounding}.safetensors"


def int4_made_by(plan: Plan) -> dict[str, str]:
    """What the file depends on beside weights and plan; empty for a plan that has none."""
    return {"code": code_digest(*INT4_WRITERS)} if plan["precision"] == int4.INT4 else {}


def open_int4(folder: Path, plan: Plan, device: str) -> TaskModel:
    """The stored model under an int4 plan: its int4 matrices on `device`, all else in fp32 on the CPU.

    Raises:
        Infeasible: no causal language model, no kernel here, or what `matrix_precision` raises.
        spaces.base.ModelError: a file of another model.
    """
    if not is_causal(folder):
        raise Infeasible("int4 under PyTorch is for causal language models alone")
    path = stored_int4(folder, plan)
    tensors = load_file(path)
    groups = {name.removesuffix(NUMBERS): _groups(tensors, name) for name in list(tensors) if name.endswith(NUMBERS)}
    model = build.unfilled(folder).eval()
    expand(model)
    _fill(model, tensors, groups, path)
    for matrix, (numbers, scales, zeros) in groups.items():
        int4.replace_linear(model, matrix, (numbers.to(device), scales.to(device), zeros.to(device)))
    return model


def stored_int4(folder: Path, plan: Plan) -> Path:
    """The file of the model in `folder` under an int4 plan; written where it does not exist yet."""
    path = folder / int4_file(plan)
    if not path.exists():
        model = build.load_model(folder)
        assert isinstance(model, Causal)
        with written_whole(path) as partial:
            save_file(_tensors(model, plan, folder), partial)
    return path


@torch.no_grad()
def _tensors(model: Causal, plan: Plan, folder: Path) -> dict[str, Tensor]:
    """The tensors of the file. Changes the weights of `model`."""
    precision = matrix_precision(model, plan, folder)
    [head] = model.hidden_readers()
    tensors: dict[str, Tensor] = {}
    for path, linear in list(_matrices(model)):
        bits = precision.head if f"{path}.".startswith(f"{head}.") else precision.bits(path)
        if bits == 32:
            continue
        groups: Groups = precision.quantise(path, linear.weight, bits)
        if bits == 4:
            tensors |= _named(path, groups)
        else:  # a parameter of its own, where it was the token table's
            weight = torch.from_numpy(integers_to_weights(groups, linear.in_features))
            linear.weight = nn.Parameter(weight, requires_grad=False)
    in_memory: set[int] = set()
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") + NUMBERS in tensors or tensor.data_ptr() in in_memory:
            continue
        in_memory.add(tensor.data_ptr())  # a tied head is stored once
        tensors[name] = (tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor.clone()).contiguous()
    return tensors


def _matrices(model: TaskModel) -> Iterator[tuple[str, nn.Linear]]:
    """The matrices by path, without those of embedding tables."""
    modules = dict(model.named_modules())
    tables = tuple(f"{path}." for path, module in modules.items() if isinstance(module, LowRankEmbedding))
    for path, module in modules.items():
        if isinstance(module, nn.Linear) and not path.startswith(tables):
            yield path, module


def _named(path: str, groups: Groups) -> dict[str, Tensor]:
    numbers, scales, zeros = groups
    return {
        path + NUMBERS: torch.from_numpy(pairs(numbers.reshape(len(numbers), -1))),
        path + SCALES: torch.from_numpy(scales.astype(np.float32)).to(torch.bfloat16),  # as the kernel reads them
        path + ZEROS: torch.from_numpy(zeros),
    }


def _groups(tensors: dict[str, Tensor], name: str) -> int4.GroupTensors:
    """Those whose numbers have this name, taken out of `tensors`."""
    path = name.removesuffix(NUMBERS)
    packed, scales, zeros = (tensors.pop(path + part) for part in (NUMBERS, SCALES, ZEROS))
    numbers = torch.stack([packed & 15, packed >> 4], -1)  # the first of two in the lower bits
    return numbers.reshape(len(packed), -1, WEIGHT_GROUP), scales, zeros


def _fill(model: TaskModel, tensors: Mapping[str, Tensor], groups: Mapping[str, object], path: Path) -> None:
    """Read all tensors that are not in groups into `model`. Raises ModelError where they are not the model's."""
    assert isinstance(model, Causal)
    [head] = model.hidden_readers()
    output = model.get_submodule(head)
    if isinstance(output, nn.Linear) and f"{head}.weight" in tensors:  # of its own, where the model's is tied
        output.weight = nn.Parameter(torch.empty_like(output.weight), requires_grad=False)
    try:
        missing, foreign = model.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:  # other shapes
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: its tensors do not fit the model that its config.json describes: {first}") from None
    state, matrices = model.state_dict(), dict(_matrices(model))
    filled = {state[name].data_ptr() for name in tensors if name in state}
    lost = [n for n in missing if n.removesuffix(".weight") not in groups and state[n].data_ptr() not in filled]
    others = [*lost, *foreign, *(matrix for matrix in groups if matrix not in matrices)]
    if others:
        raise ModelError(f"{path}: its tensors are not those of the model that its config.json describes: {others[0]}")
