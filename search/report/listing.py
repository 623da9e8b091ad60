"""All names for a configuration, and what this machine can run, as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from objectives import all_objectives
from search import tasks
from search.config.schema import DataConfig
from search.report.cache_sentences import CACHE_DESCRIPTIONS
from spaces import registry
from spaces.families import known_model_types
from spaces.generation.program import GeneratingRuntime
from spaces.knob import Knob, Value
from spaces.runtime import Context
from spaces.shape import LayerShape, Shape

#: Upper ends of ranges that are sizes of the model.
OWN_ENDS = {
    ("distill", "layers"): "1 to the model's own, off: the model's own",
    ("embedding", "size"): "1 to the model's own, off: the model's own",
    ("bits", "fp32_blocks"): "0 to the model's own, off: 0",
    ("bits", "int8_blocks"): "0 to the model's own, off: 0",
}

#: A shape for which every axis offers all its knobs.
ANY_SHAPE = Shape(
    hidden=64,
    head_dim=32,
    group=1,
    layers=(LayerShape(2, 64),) * 2,
    prunable_heads=True,
    prunable_hidden=True,
    embedding=64,
)


def lines() -> Iterator[str]:
    import torch

    from search.propose.samplers import SAMPLERS

    yield "axes (off leaves the model as it is)"
    for axis in registry.axes():
        yield f"  {axis.name:<12} {axis.source}"
        for knob in axis.knobs(ANY_SHAPE):
            yield f"    {axis.name}.{knob.name:<12}{_range(axis.name, knob):<48} {knob.help}"
    yield f"  model families whose layers can be cut: {', '.join(known_model_types())}"
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        context = Context(device=device)
        names = {runtime.name: _marked("runtime.name", runtime.name) for runtime in registry.runtimes()}
        wide = max(map(len, names.values()))
        yield f"runtimes on this {device}"
        for runtime in registry.runtimes():
            why = runtime.missing(context)
            kernels = "" if why else _precisions(runtime.precisions(context), device)
            state = f"precisions: {kernels}" if why is None else f"not here: {why}"
            if why is None and isinstance(runtime, GeneratingRuntime):
                generating, kinds = runtime.generating_precisions(context), runtime.cache_kinds(context)
                if generating != runtime.precisions(context):
                    state += f"; of language models: {_precisions(generating, device) or 'none'}"
                state += f"; caches: {', '.join(kinds)}" if kinds else ""
            yield f"  {names[runtime.name]:<{wide}}  {state}"
    yield "  experimental: written after its library's documentation, and not yet run on a GPU by us"
    yield "caches of language models (memory of a token: 2 x blocks x key-value heads x head size x bytes of a number)"
    for kind, what in CACHE_DESCRIPTIONS.items():
        yield f"  {kind:<10}{what}"
    yield "objectives"
    for objective in all_objectives():
        yield f"  {objective.name:<26}{objective.better} is better; {objective.description}"
    yield "tasks"
    for task in tasks.TASKS:
        if task.problem_type is None:
            yield f"  {task.name:<24}metrics: {', '.join(task.metrics)}"
        else:
            yield f"  {task.name}, by model.problem_type"
            yield f"    {task.problem_type:<30}metrics: {', '.join(task.metrics)}"
        for form in task.variants:
            chosen = form.problem_type if form.chosen_by is None else f"with data.{form.chosen_by}"
            yield f"    {chosen:<30}metrics: {', '.join(form.metrics)}"
        yield f"    keys of data: {', '.join(own_keys(task))}"
    yield f"samplers: {', '.join(SAMPLERS)}"


def own_keys(task: tasks.Task) -> tuple[str, ...]:
    """The keys of `data` that not every task has."""
    every = {key.name for key in fields(DataConfig)}
    return tuple(key.name for key in fields(task.keys) if key.name not in every)


def _range(axis: str, knob: Knob) -> str:
    if not knob.ordered:
        return ", ".join(_marked(f"{axis}.{knob.name}", choice) for choice in knob.choices)
    if (axis, knob.name) in OWN_ENDS:
        return OWN_ENDS[axis, knob.name]
    return f"{knob.span}, off: {knob.off}"


def _precisions(names: Sequence[str], device: str) -> str:
    new_here = registry.EXPERIMENTAL_ON_CUDA if device == "cuda" else ()
    return ", ".join(f"{p} (experimental)" if p in new_here else _marked("bits.precision", p) for p in names)


def _marked(knob: str, value: Value) -> str:
    """A value of a knob, marked "(experimental)" where it has not yet run on the device that it is for."""
    return f"{value} (experimental)" if value in registry.EXPERIMENTAL.get(knob, ()) else str(value)
