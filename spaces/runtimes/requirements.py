"""Whether a runtime can run a plan on a machine, checked before it opens a model."""

from __future__ import annotations

from collections.abc import Sequence

from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context, Runtime
from spaces.runtimes import float8

#: Runtimes that open the graphs of causal language models, whose output matrix, rounding and blocks have knobs of
#: their own.
GRAPH_RUNTIMES = ("onnx", "openvino")


def require(
    runtime: Runtime,
    plan: Plan,
    context: Context,
    where: str | None = None,
    precisions: Sequence[str] | None = None,
) -> None:
    """Raises Infeasible where `runtime` cannot run at all, or has no kernels of the planned precision.

    `where` ends the message about kernels; None: "on this" and the device. `precisions`: those with kernels; None: all
    that the runtime offers.
    """
    why = runtime.missing(context)
    if why:
        raise Infeasible(why)
    if "head" in plan and runtime.name not in GRAPH_RUNTIMES:
        raise Infeasible(f"bits.head: {runtime.name} has no precision of its own for the output matrix; onnx has")
    if "rounding" in plan and runtime.name not in GRAPH_RUNTIMES:
        raise Infeasible(f"bits.rounding: {runtime.name} has no int4 by {plan['rounding']}; onnx has")
    if "int8_blocks" in plan and runtime.name not in GRAPH_RUNTIMES:
        raise Infeasible(f"bits.int8_blocks: {runtime.name} has no int4 with blocks of int8; onnx has")
    precision = str(plan["precision"])
    if precision not in (runtime.precisions(context) if precisions is None else precisions):
        problem = float8.missing(context) if precision == float8.FP8 and runtime.name in float8.FP8_RUNTIMES else None
        raise Infeasible(problem or f"{runtime.name} has no {precision} kernels {where or f'on this {context.device}'}")
