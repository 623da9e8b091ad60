"""What every runtime asks before it opens a model."""

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
    """How many CPUs' worth of time this process may use: those it may run on, and no more than a container's quota."""
    from loky import cpu_count

    return int(cpu_count())


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write; it becomes `path` where the block ends well, and is gone where it does not."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class FromWeights:
    """Of a runtime that runs the weights as they are stored, and makes no files."""

    def files(self, plan: Plan) -> tuple[str, ...]:
        return (WEIGHTS,)

    def made_by(self, context: Context) -> Mapping[str, str]:
        return {}

    def made_from(self, plan: Plan, folder: Path) -> Plan | None:
        return None


def require(runtime: Runtime, plan: Plan, context: Context, place: str | None = None) -> None:
    """Raises Infeasible where `runtime` cannot run at all, or has no kernels of the planned precision.

    `place` ends the second sentence: "this" and the device, where nothing is given.
    """
    why = runtime.missing(context)
    if why:
        raise Infeasible(why)
    if "head" in plan and runtime.name != "onnx":
        raise Infeasible(f"bits.head: {runtime.name} has no precision of its own for the output matrix; onnx has")
    precision = str(plan["precision"])
    if precision not in runtime.precisions(context):
        problem = float8.missing(context) if precision == float8.PRECISION and runtime.name in float8.RUNTIMES else None
        raise Infeasible(problem or f"{runtime.name} has no {precision} kernels {place or f'on this {context.device}'}")
