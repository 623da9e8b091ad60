"""Every name that a configuration may use, without importing torch or optuna, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from objectives import all_objectives
from search import tasks
from search.config.load import Names
from search.config.schema import SAMPLERS, RunConfig
from search.config.space_section import Spec, narrow_axis
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
            **{one.problem_type: one.metrics for variants in tasks.VARIANTS.values() for one in variants},
        },
        scored={name: task.metrics for name, task in tasks.SCORED.items()},
        questioned=tasks.QUESTIONED,
        problems={name: tuple(one.problem_type for one in variants) for name, variants in tasks.VARIANTS.items()},
        samplers=SAMPLERS,
        generating=tuple(task.name for task in tasks.TASKS if task.generates),
        objectives=tuple(objective.name for objective in all_objectives()),
    )


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
