"""What every runtime asks before it opens a model."""

from __future__ import annotations

from collections.abc import Mapping

from spaces.base import WEIGHTS
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context, Runtime
from spaces.runtimes import float8


def cpus() -> int:
    """How many CPUs' worth of time this process may use: those it may run on, and no more than a container's quota."""
    from loky import cpu_count

    return int(cpu_count())


class FromWeights:
    """Of a runtime that runs the weights as they are stored, and makes no files."""

    def files(self, plan: Plan) -> tuple[str, ...]:
        return (WEIGHTS,)

    def made_by(self, context: Context) -> Mapping[str, str]:
        return {}

    def made_from(self, plan: Plan) -> Plan | None:
        return None


def require(runtime: Runtime, plan: Plan, context: Context, place: str | None = None) -> None:
    """Raises Infeasible where `runtime` cannot run at all, or has no kernels of the planned precision.

    `place` ends the second sentence: "this" and the device, where nothing is given.
    """
    why = runtime.missing(context)
    if why:
        raise Infeasible(why)
    precision = str(plan["precision"])
    if precision not in runtime.precisions(context):
        problem = float8.missing(context) if precision == float8.PRECISION and runtime.name in float8.RUNTIMES else None
        raise Infeasible(problem or f"{runtime.name} has no {precision} kernels {place or f'on this {context.device}'}")
