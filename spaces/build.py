"""Builds a recipe's model from the base model, and loads stored models."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from spaces import registry, two_of_four
from spaces.base import ModelError, TaskModel, read_config, read_weights, skeleton
from spaces.errors import Infeasible
from spaces.generation.causal_predict import LOG_LIKELIHOOD, CausalPredict, open_causal
from spaces.generation.program import CacheSettings
from spaces.knob import Plan, Settings, Value
from spaces.recipe import DEPLOYED, Recipe, Step
from spaces.runtime import Context, Predict
from spaces.shape import NO_SHAPE, Shape
from spaces.sparse_storage import expand
from spaces.statistics import Statistics

Plans = dict[str, Plan]


def steps_of(params: Mapping[str, Value], shape: Shape | None) -> tuple[Step, ...]:
    """Canonical steps from settings named `<axis>.<knob>`: only axes that are on, only values that are not `off`.

    An axis of which only method knobs are set is off and has no step. `shape` is None for a model of an unknown family,
    which has the axis `bits` alone.
    """
    steps = []
    for axis in registry.axes():
        if shape is None and axis.name not in DEPLOYED:
            continue
        knobs = axis.knobs(shape or NO_SHAPE)
        values = {k.name: k.tidy(params.get(f"{axis.name}.{k.name}", k.off)) for k in knobs}
        values = {k.name: values[k.name] if k.applies(values) else k.off for k in knobs}
        if any(values[k.name] != k.off for k in knobs if not k.method):
            steps.append(Step(axis.name, {k.name: values[k.name] for k in knobs if values[k.name] != k.off}))
    return tuple(steps)


def decide(steps: Sequence[Step], statistics: Statistics | None) -> Plans:
    """The plans of all steps, from statistics alone; weights are not changed.

    Raises Infeasible for a step that cannot be planned.
    """
    plans: Plans = {}
    for step in steps:
        axis = registry.axis_named(step.name)
        if axis.name in DEPLOYED:
            continue  # the runtime lowers it: `precision_of`, `cache_of`
        assert statistics is not None, "an axis that cuts needs statistics"
        plan = axis.decide(statistics, step.settings)
        plans[step.name] = plan
        statistics = axis.carry(statistics, plan)
    return plans


def build(model: TaskModel, plans: Plans, statistics: Statistics | None) -> TaskModel:
    """A compressed copy of `model`: each plan in turn reshapes it, then fills in the weights."""
    current: nn.Module = copy.deepcopy(model)
    for name, plan in plans.items():
        axis = registry.axis_named(name)
        assert statistics is not None, "an axis that cuts needs statistics"
        source, current = current, copy.deepcopy(current)
        axis.reshape(current, plan)
        axis.fill(current, source, plan, statistics)
        statistics = axis.carry(statistics, plan)
    assert isinstance(current, TaskModel)
    return current


def load_model(folder: Path) -> TaskModel:
    """The model stored in `folder`, in eval mode, with sparse matrices expanded to dense ones.

    Raises:
        spaces.base.ModelError: as `as_stored`.
    """
    model = as_stored(folder)
    expand(model)
    return model


def as_stored(folder: Path) -> TaskModel:
    """The model stored in `folder`, in eval mode, with sparse matrices in their stored form.

    Raises:
        spaces.base.ModelError: no compressed model's folder, or weights that are missing, foreign or pickled.
    """
    model = unfilled(folder)
    read_weights(model, folder)
    return model.eval()


def unfilled(folder: Path) -> TaskModel:
    """The architecture of the model stored in `folder`, which each saved plan reshapes, with arbitrary weights.

    Raises:
        spaces.base.ModelError: no compressed model's folder.
    """
    base, plans = read_config(folder)
    try:
        model = skeleton(base)
        for name, plan in plans.items():
            registry.axis_named(name).reshape(model, plan)
    except (StopIteration, LookupError, ValueError, TypeError, AttributeError, Infeasible) as error:
        # An edited or foreign config can break anywhere in the rebuilding.
        what = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise ModelError(f"{folder / 'config.json'}: describes no model that can be built here ({what})") from error
    return model


def precision_of(recipe: Recipe) -> Plan:
    """The precision plan of a recipe. Raises Infeasible for an unknown precision."""
    from spaces.axes.bits import precision

    step = recipe.step("bits")
    settings: Settings = step.settings if step else {}
    return precision(settings)


def cache_of(recipe: Recipe) -> CacheSettings | None:
    """The cache that a recipe names; None: the runtime's default one, or none where nothing is generated."""
    from spaces.axes.cache import cache_settings

    step = recipe.step("cache")
    return None if step is None else cache_settings(step.settings)


def speculation_of(recipe: Recipe) -> str:
    """How a recipe's tokens are proposed (`CacheSettings.speculation`)."""
    return (cache_of(recipe) or CacheSettings()).speculation


def open_predict(
    folder: Path, runtime: str, plan: Plan, context: Context, cache: CacheSettings | None = None
) -> Predict:
    """The stored model under a runtime. Picklable by name, so that a worker process can run it.

    A model that generates has this cache, of `context.cache_tokens`, or where it is None its runtime's default one.

    Raises Infeasible where the runtime cannot run it here.
    """
    base, plans = read_config(folder)
    two_of_four.check_kernels(plans, runtime, str(plan["precision"]), context)
    opened = functools.partial(registry.runtime_named(runtime).open, folder, plan, context)
    if base.output != LOG_LIKELIHOOD:
        return opened()
    return open_causal(folder, opened, runtime, plan, context, cache)


def open_recipe(folder: Path, recipe: Recipe, context: Context) -> Predict:
    """The stored weights of a recipe as it runs them: its runtime, precision and cache. As `open_predict`."""
    return open_predict(folder, recipe.runtime.name, precision_of(recipe), context, cache_of(recipe))


def open_whole(folder: Path, runtime: str, plan: Plan, context: Context) -> Predict:
    """`open_predict`, with what it would open on first use, so that every file of the runtime exists afterwards."""
    predict = open_predict(folder, runtime, plan, context)
    if isinstance(predict, CausalPredict):
        assert predict.scoring is not None
    return predict
