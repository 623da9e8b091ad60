"""Causal language models under ONNX Runtime: one graph per plan, with its weights, for scoring and generation."""

from __future__ import annotations

from pathlib import Path

from spaces import sensitivity
from spaces.base import read_config
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes.opening import written_whole

HEAD = "causal"


def is_causal(folder: Path) -> bool:
    """Whether the model stored in `folder` is a causal language model."""
    return read_config(folder)[0].head == HEAD


def graph(folder: Path, plan: Plan, path: Path, context: Context) -> Path:
    """`path`, the graph of the model in `folder` under this plan; written where it does not exist yet.

    int8 and int4 are weights by groups of 32 (`spaces.generation.onnx_linear`).

    Raises:
        Infeasible: a device, head, family or precision that is not supported.
    """
    if context.device != "cpu":
        raise Infeasible(f"onnx runs causal language models on a CPU, not on {context.device}")
    if not is_causal(folder):
        raise Infeasible(f"the model of {folder} has no causal head, so it generates no text")
    if not path.exists():
        from spaces import build
        from spaces.generation import onnx_decoder
        from spaces.generation.onnx_linear import Precision

        count = int(plan.get("fp32_blocks", 0))
        blocks = sensitivity.read(folder) if count else []
        if count > len(blocks):
            raise Infeasible(f"bits.fp32_blocks must be at most the model's {len(blocks)} blocks, got {count}")
        precision = Precision.of(plan, blocks[:count])
        with written_whole(path) as partial:
            onnx_decoder.write(build.load(folder), precision, partial)
    return path
