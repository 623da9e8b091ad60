"""Whether a runtime can run a plan on a machine, checked before it opens a model."""

from __future__ import annotations

from collections.abc import Sequence

from spaces.axes.bits import TORCH_INT4_RUNTIMES
from spaces.errors import Infeasible
from spaces.knob import Plan, Value
from spaces.runtime import Context, Runtime
from spaces.runtimes import float8, int4

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
    precision, offered = str(plan["precision"]), runtime.precisions(context) if precisions is None else precisions
    of_causal_models = runtime.name in GRAPH_RUNTIMES or (precision == int4.INT4 and precision in offered)
    if "head" in plan and not of_causal_models:
        raise Infeasible(f"bits.head: {runtime.name} has no precision of its own for the output matrix; onnx has")
    if "rounding" in plan and not of_causal_models:
        raise Infeasible(f"bits.rounding: {runtime.name} has no int4 by {plan['rounding']}; onnx has")
    if "int8_blocks" in plan and runtime.name not in GRAPH_RUNTIMES:
        raise Infeasible(f"bits.int8_blocks: {runtime.name} has no int4 with blocks of int8; onnx has")
    if precision not in offered:
        problem = _problem(runtime.name, precision, context)
        raise Infeasible(problem or f"{runtime.name} has no {precision} kernels {where or f'on this {context.device}'}")


def _problem(runtime: str, precision: str, context: Context) -> str | None:
    """Why a runtime that has kernels of the precision on some devices has none on this one; else None."""
    if precision == float8.FP8 and runtime in float8.FP8_RUNTIMES:
        return float8.missing(context)
    return int4.missing(context) if precision == int4.INT4 and runtime in TORCH_INT4_RUNTIMES else None


def lacking(precision: Value, context: Context) -> str | None:
    """Why no runtime has kernels of a precision on this device, for those that need a certain one; else None."""
    if precision == float8.FP8:
        return float8.missing(context)
    # On a CPU the runtimes of graphs have int4.
    return int4.missing(context) if precision == int4.INT4 and context.device == "cuda" else None
