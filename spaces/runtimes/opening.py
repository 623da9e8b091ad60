"""Checks that runtimes make before they open a model, and how they write files."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from spaces.base import WEIGHTS
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context, Runtime
from spaces.runtimes import float8


def cpus() -> int:
    """The number of CPUs that this process may use: those of its affinity, and at most a container's quota."""
    from loky import cpu_count

    return int(cpu_count())


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`; it becomes `path` where the block succeeds, and is removed where it fails."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class FromWeights:
    """Mixin of runtimes that run the stored weights without files of their own."""

    def files(self, plan: Plan) -> tuple[str, ...]:
        return (WEIGHTS,)

    def made_by(self, context: Context) -> Mapping[str, str]:
        return {}

    def made_from(self, plan: Plan, folder: Path) -> Plan | None:
        return None


def require(runtime: Runtime, plan: Plan, context: Context, place: str | None = None) -> None:
    """Raises Infeasible where `runtime` cannot run at all, or has no kernels of the planned precision.

    `place` ends the message about kernels; None: "on this" and the device.
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
        raise Infeasible(problem or f"{runtime.name} has no {precision} kernels {place or f'on this {context.device}'}")
