"""Every name that a configuration may use, without importing torch or optuna, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from objectives import all_objectives
from search import tasks
from search.config.load import Names
from search.config.schema import SAMPLER_NAMES, RunConfig
from search.config.space_section import Spec, narrow_axis
from search.tasks.task import LIKELIEST
from spaces.axes.bits import Bits
from spaces.axes.cache import CacheKind
from spaces.knob import Knob
from spaces.registry import AXIS_ENTRIES, RUNTIME_ENTRIES
from spaces.shape import NO_SHAPE


def names() -> Names:
    """Every name a configuration may use."""
    axes = {entry.name: entry.knobs for entry in AXIS_ENTRIES}
    return Names(
        axes={**axes, "runtime": (runtime_knob().name,)},
        tasks=tuple(task.name for task in tasks.TASKS),
        metrics={
            **{task.name: task.metrics for task in tasks.TASKS},
            **{form.problem_type: form.metrics for form in tasks.forms() if form.problem_type},
        },
        data={task.name: task.keys for task in tasks.TASKS},
        metrics_by_key=_metrics_by_key(),
        problems={task.name: _problem_types(task) for task in tasks.TASKS if task.problem_type},
        samplers=SAMPLER_NAMES,
        generating=tuple(task.name for task in tasks.TASKS if task.generates),
        likeliest=tuple(task.name for task in tasks.TASKS if LIKELIEST in task.distills),
        windowed=tuple(task.name for task in tasks.TASKS if task.slides or task.generates),
        objectives=tuple(objective.name for objective in all_objectives()),
    )


def _metrics_by_key() -> dict[str, dict[str, tuple[str, ...]]]:
    metrics: dict[str, dict[str, tuple[str, ...]]] = {}
    for form in tasks.forms():
        if form.chosen_by is not None:
            metrics.setdefault(form.chosen_by, {})[form.name] = form.metrics
    return metrics


def _problem_types(task: tasks.Task) -> tuple[str, ...]:
    return tuple(form.problem_type for form in (task, *task.variants) if form.problem_type)


def runtime_knob() -> Knob:
    names = tuple(entry.name for entry in RUNTIME_ENTRIES)
    return Knob("name", off=names[0], choices=names, help="how the model is run")


def check_choices(config: RunConfig) -> None:
    """Check the names of runtimes, of precisions and of caches, which depend on no model.

    Raises:
        UserError: a name is unknown.
    """
    of_any_model = {"bits": Bits().knobs(NO_SHAPE), "cache": CacheKind().knobs(NO_SHAPE), "runtime": (runtime_knob(),)}
    for axis, knobs in of_any_model.items():
        narrow_axis(knobs, _named(config.space, axis, knobs), axis, config.where)


def _named(
    space: Mapping[str, Mapping[str, Spec] | None], axis: str, knobs: Sequence[Knob]
) -> dict[str, Mapping[str, Spec] | None]:
    """The section of `axis` without the knobs that only a model's shape brings."""
    specs = space.get(axis)
    names = {knob.name for knob in knobs}
    return {axis: None if specs is None else {n: s for n, s in specs.items() if n in names}} if axis in space else {}
