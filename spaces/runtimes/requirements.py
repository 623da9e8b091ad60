"""Whether a runtime can run a plan on a machine, checked before it opens a model."""

from __future__ import annotations

from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context, Runtime
from spaces.runtimes import float8


def require(runtime: Runtime, plan: Plan, context: Context, where: str | None = None) -> None:
    """Raises Infeasible where `runtime` cannot run at all, or has no kernels of the planned precision.

    `where` ends the message about kernels; None: "on this" and the device.
    """
    why = runtime.missing(context)
    if why:
        raise Infeasible(why)
    if "head" in plan and runtime.name != "onnx":
        raise Infeasible(f"bits.head: {runtime.name} has no precision of its own for the output matrix; onnx has")
    if "rounding" in plan and runtime.name != "onnx":
        raise Infeasible(f"bits.rounding: {runtime.name} has no int4 by {plan['rounding']}; onnx has")
    precision = str(plan["precision"])
    if precision not in runtime.precisions(context):
        problem = float8.missing(context) if precision == float8.PRECISION and runtime.name in float8.RUNTIMES else None
        raise Infeasible(problem or f"{runtime.name} has no {precision} kernels {where or f'on this {context.device}'}")
