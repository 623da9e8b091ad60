"""`python -m search list`: everything that can be named, and what this machine can run."""

from __future__ import annotations

from collections.abc import Iterator

import spaces
from objectives import OBJECTIVES
from objectives.quality import METRICS
from search.compose import ANY_SHAPE
from search.tasks import TASKS
from spaces.anatomy import known_model_types
from spaces.axis import Context, Knob

#: Ranges that end with the number of blocks of a model.
OWN = {
    ("distill", "layers"): "1 to the model's own, off: the model's own",
    ("bits", "wide"): "0 to the model's own, off: 0",
}


def lines() -> Iterator[str]:
    import torch

    from search.propose.samplers import SAMPLERS

    yield "axes (off leaves the model as it is)"
    for axis in spaces.AXES:
        yield f"  {axis.name:<12}{axis.source}"
        for knob in axis.knobs(ANY_SHAPE):
            yield f"    {axis.name}.{knob.name:<12}{_range(axis.name, knob):<48}{knob.help}"
    yield f"  model families whose layers can be cut: {', '.join(known_model_types())}"
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        context = Context(device=device)
        wide = max(len(runtime.name) for runtime in spaces.RUNTIMES)
        yield f"runtimes on this {device}"
        for runtime in spaces.RUNTIMES:
            why = runtime.missing(context)
            state = f"widths: {', '.join(runtime.widths(context))}" if why is None else f"not here: {why}"
            yield f"  {runtime.name:<{wide}}  {state}"
    yield "objectives"
    for objective in OBJECTIVES:
        yield f"  {objective.name:<24}{objective.better} is better; {objective.description}"
    yield "tasks"
    for task in TASKS:
        yield f"  {task.name:<24}metrics: {', '.join(task.metrics)}"
    yield f"metrics: {', '.join(metric.name for metric in METRICS)}"
    yield f"samplers: {', '.join(SAMPLERS)}"


def _range(axis: str, knob: Knob) -> str:
    if not knob.ordered:
        return ", ".join(map(str, knob.choices))
    if (axis, knob.name) in OWN:
        return OWN[axis, knob.name]
    step = f" in steps of {knob.step:g}" if knob.step else ""
    return f"{knob.low:g} to {knob.high:g}{step}, off: {knob.off}"
