"""Causal language models as ONNX graphs: one per plan, with its weights, for scoring and generation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spaces import calibration, sensitivity
from spaces.base import is_causal
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes.atomic_file import written_whole

if TYPE_CHECKING:
    from torch import Tensor

    from spaces.base import TaskModel
    from spaces.generation.onnx_linear import Precision
    from spaces.weight_groups import Groups

#: Precisions of these graphs; int8 and int4 are of weights.
CAUSAL_GRAPH_PRECISIONS = ("fp32", "int8", "int4")


def refuse_others(plan: Plan) -> None:
    """Raises Infeasible for a plan that only a causal language model can have."""
    if "head" in plan:
        raise Infeasible("bits.head: only a causal language model has an output matrix with a precision of its own")
    if "rounding" in plan:
        raise Infeasible(f"bits.rounding: {plan['rounding']} is of causal language models alone")
    if "int8_blocks" in plan:
        raise Infeasible("bits.int8_blocks: only a causal language model has int8 and int4 blocks together")


def causal_graph(folder: Path, plan: Plan, path: Path, context: Context) -> Path:
    """`path`, the graph of the model in `folder` under this plan; written where it does not exist yet.

    int8 and int4 are weights by groups of 32 (`spaces.generation.onnx_linear`). Of the blocks, the most sensitive
    first, those of `fp32_blocks` stay fp32 and the next, those of `int8_blocks`, are int8.

    Raises:
        Infeasible: a device, head, family or precision that is not supported.
    """
    if context.device != "cpu":
        raise Infeasible(f"graphs of causal language models run on a CPU, not on {context.device}")
    if not is_causal(folder):
        raise Infeasible(f"the model of {folder} has no causal head, so it generates no text")
    if not path.exists():
        from spaces import build
        from spaces.generation import onnx_decoder

        model = build.load_model(folder)
        precision = matrix_precision(model, plan, folder)
        with written_whole(path) as partial:
            onnx_decoder.write(model, precision, partial)
    return path


def _apart(folder: Path, plan: Plan) -> list[str]:
    """The paths of the blocks that have a precision of their own, the most sensitive first.

    Raises:
        Infeasible: the model has fewer blocks, or no order of them.
    """
    counts = {f"bits.{name}": int(plan[name]) for name in ("fp32_blocks", "int8_blocks") if plan.get(name)}
    if not counts:
        return []
    names, count = " and ".join(counts), sum(counts.values())
    blocks = sensitivity.read(folder, names)
    if count > len(blocks):
        raise Infeasible(f"{names} must be at most the model's {len(blocks)} blocks, got {count}")
    return blocks[:count]


def matrix_precision(model: TaskModel, plan: Plan, folder: Path) -> Precision:
    """The bits of each matrix of the model that is stored in `folder`, and how its integers are made.

    Where they are made by outputs, it changes the weights of `model`.

    Raises:
        Infeasible: a precision that causal models do not have, what `_apart` raises, or no calibration rows.
    """
    from spaces.generation.onnx_linear import Precision

    blocks, fp32 = _apart(folder, plan), int(plan.get("fp32_blocks", 0))
    precision = Precision.of(plan, blocks[:fp32], blocks[fp32:])
    return _by_outputs(model, precision, folder) if "rounding" in plan else precision


def _by_outputs(model: TaskModel, precision: Precision, folder: Path) -> Precision:
    """The precision with integers by error feedback (`spaces.generation.calibrated`); changes the weights of `model`.

    Raises:
        Infeasible: the folder has no calibration rows.
    """
    from spaces.generation.calibrated import calibrated
    from spaces.generation.onnx_linear import to_nearest

    rows = calibration.read(folder, "bits.rounding")
    others = (*precision.fp32_blocks, *precision.int8_blocks)
    groups = calibrated(model, rows, precision.body, precision.head, others)

    def quantise(path: str, weight: Tensor, bits: int) -> Groups:
        return groups[path] if path in groups else to_nearest(path, weight, bits)

    return replace(precision, quantise=quantise)
