"""What every runtime asks before it opens a model."""

from __future__ import annotations

from spaces.axis import Context, Infeasible, Plan, Runtime


def require(runtime: Runtime, plan: Plan, context: Context, place: str | None = None) -> None:
    """Raises Infeasible where `runtime` cannot run at all, or has no kernels of the planned width.

    `place` ends the second sentence: "this" and the device, where nothing is given.
    """
    why = runtime.missing(context)
    if why:
        raise Infeasible(why)
    if plan["width"] not in runtime.widths(context):
        raise Infeasible(f"{runtime.name} has no {plan['width']} kernels {place or f'on this {context.device}'}")
