"""The searched space: every knob as the user narrowed it, on this model and device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from search.config.schema import RunConfig
from search.config.space_section import narrow_axis
from search.errors import UserError, listed
from search.space.cache_knobs import cache_knobs, caches_of
from search.space.choices import runtime_knob
from search.space.deployments import CACHE, PRECISION, RUNTIME, Deployment
from search.space.int8_blocks import every_deployment
from search.tasks import task_of
from spaces import registry, two_of_four
from spaces.axes.bits import OPT_IN_PRECISIONS, PRECISIONS
from spaces.axis import Axis
from spaces.build import steps_of
from spaces.cache_settings import CACHE_KINDS
from spaces.generation.program import GeneratingRuntime
from spaces.knob import Knob, Value
from spaces.recipe import DEPLOYED, Step
from spaces.runtime import Context
from spaces.runtimes.requirements import lacking
from spaces.shape import NO_SHAPE, Shape

Params = Mapping[str, Value]
PATTERN = "sparse.pattern"
#: By a field of a shape: why a model of a known family does not allow that cut.
UNCUT = {
    "prunable_heads": "the attention heads of this model's family cannot differ from block to block",
    "prunable_hidden": "the embeddings of this model have a width of their own, or it has a convolution",
}
#: Precisions whose loss or speed differs too much between models to start from.
UNPROVEN = ("int8-static", "int4", "fp8")


@dataclass(frozen=True)
class Space:
    """Knobs by `<axis>.<knob>`, the deployments that this machine runs, and why others do not."""

    knobs: Mapping[str, Knob]
    shape: Shape | None
    deployments: tuple[Deployment, ...]
    missing: Mapping[str, str] = field(default_factory=dict)  # runtime -> why it cannot run here
    notes: tuple[str, ...] = ()

    @property
    def searched(self) -> dict[str, Knob]:
        """The knobs that have a choice."""
        return {name: knob for name, knob in self.knobs.items() if knob.single is None}

    @property
    def off(self) -> dict[str, Value]:
        """The uncompressed model's settings (its runtime aside)."""
        return {name: knob.off for name, knob in self.knobs.items()}

    @property
    def compresses(self) -> bool:
        """Whether any settings give weights that differ from the teacher's."""
        how = (*DEPLOYED, "runtime")
        return any(k.single != k.off for name, k in self.knobs.items() if name.partition(".")[0] not in how)

    def complete(self, params: Params) -> dict[str, Value]:
        """`params` with the value of every knob that has only one; floats as they are on the grid (0.3, not
        0.30000000000000004), so that equal settings have equal digests. A cache that the runtime does not have is its
        first one."""
        fixed = {n: k.single for n, k in self.knobs.items() if k.single is not None}
        full = {n: round(v, 9) if isinstance(v, float) else v for n, v in {**fixed, **params}.items()}
        return full if CACHE not in self.knobs or RUNTIME not in full else {**full, **self._with_a_cache(full)}

    def _with_a_cache(self, params: Params) -> dict[str, Value]:
        """The settings of the runtime's first cache where `params` name one that it does not have; else empty."""
        wanted = Deployment.of(params)
        kernels = (wanted.runtime, wanted.precision, wanted.int8_blocks)
        here = [d for d in self.deployments if (d.runtime, d.precision, d.int8_blocks) == kernels]
        if not here or wanted in here:
            return {}
        return {name: value for name, value in here[0].settings.items() if name in self.knobs}

    def canonical(self, params: Params) -> Params:
        """Complete settings, equal for equal recipes: inactive knobs are reset to their off value."""
        full = {**self.off, **params}
        if not any(knob.method or knob.needs for knob in self.searched.values()):
            return full
        active = {f"{step.name}.{name}": value for step in self.steps(full) for name, value in step.settings.items()}
        deployment = {name: value for name, value in full.items() if name in (RUNTIME, PRECISION, CACHE)}
        return {**self.off, **active, **deployment}

    def contains(self, params: Params) -> bool:
        """Whether every knob has a value of the space, or is inactive."""
        projected = self.projected(params)
        return all(_holds(knob, projected.get(name, knob.off)) for name, knob in self.knobs.items())

    def projected(self, params: Params) -> dict[str, Value]:
        """The settings projected onto the space: inactive knobs take a value of it."""
        full = {**self.off, **params}
        projected = dict(params)
        for name, knob in self.knobs.items():
            if knob.needs is None or _holds(knob, full[name]):
                continue
            other, values = f"{name.partition('.')[0]}.{knob.needs[0]}", knob.needs[1]
            if full.get(other) not in values:
                projected[name] = knob.values()[0]
        return projected

    def steps(self, params: Params) -> tuple[Step, ...]:
        return steps_of({**self.off, **params}, self.shape)

    def size(self) -> int:
        """The number of settings on the grid (a knob without a step counts its two ends)."""
        total = 1
        for knob in self.searched.values():
            total *= len(knob.values())
        return total

    def to_json(self) -> dict[str, Any]:
        """The space as plain values, equal for runs that search the same space; without opt-in knobs that are off."""
        described = {}
        for name, k in self.knobs.items():
            if k.opt_in and k.single == k.off:
                continue
            described[name] = list(k.choices) if not k.ordered else [k.low, k.high, k.step, k.log]
        return {"knobs": described, "deployments": [deployment.to_json() for deployment in self.deployments]}


def _holds(knob: Knob, value: Value) -> bool:
    if not knob.ordered:
        return value in knob.choices
    assert knob.low is not None and knob.high is not None
    if isinstance(value, str) or not knob.low <= value <= knob.high:
        return False
    return knob.step is None or any(abs(float(v) - value) < 1e-9 for v in knob.values())


def open_space(config: RunConfig, shape: Shape | None, context: Context, unknown: str = "") -> Space:
    """The space of this configuration for a model of `shape` on this device.

    `shape` is None, and `unknown` the reason, for a model of unknown anatomy: only bits and runtime are searched then.

    Raises:
        UserError: a knob out of range, or no runtime left.
    """
    knobs: dict[str, Knob] = {}
    notes: list[str] = []
    for axis in registry.axes():
        if axis.name == "cache":
            knobs |= cache_knobs(config, axis)
            continue
        if shape is None and axis.name != "bits":
            if config.space.get(axis.name):
                raise UserError(f"{config.where(f'space.{axis.name}')}: {unknown}")
            continue
        narrowed = narrow_axis(axis.knobs(shape or NO_SHAPE), config.space, axis.name, config.where)
        knobs |= {f"{axis.name}.{knob.name}": knob for knob in narrowed}
        if shape is not None:
            notes += _absent(axis, shape, config)
    if shape is None:
        notes.append(f"{unknown}; only bits and runtime are searched")
    else:
        knobs[PATTERN] = _with_kernels(knobs[PATTERN], context, config.where(f"space.{PATTERN}"), notes)
    wanted = narrow_axis((runtime_knob(),), config.space, "runtime", config.where)[0]
    offered = _precisions(knobs[PRECISION], config, context, notes)
    deployments, missing = _deployments(config, [str(name) for name in wanted.choices], offered, knobs, context)
    if not deployments:
        reasons = (
            "; ".join(f"{name}: {why}" for name, why in missing.items()) or "no precision that they have kernels for"
        )
        raise UserError(f"{config.where('space.runtime')}: none of {listed(wanted.choices)} can run here ({reasons})")
    names = tuple(dict.fromkeys(deployment.runtime for deployment in deployments))
    precisions = tuple(w for w in PRECISIONS if any(w == deployment.precision for deployment in deployments))
    knobs[RUNTIME] = Knob("name", off=names[0], choices=names, help=wanted.help)
    knobs[PRECISION] = Knob("precision", off="fp32", choices=precisions, help=knobs[PRECISION].help)
    if CACHE in knobs:
        kinds_here = {deployment.cache.kind for deployment in deployments}
        # Those of the deployments, and not the knob's: "off" is another kind under another runtime.
        choices = tuple(kind for kind in CACHE_KINDS if kind in kinds_here)
        knobs[CACHE] = replace(knobs[CACHE], choices=choices)
    return Space(knobs, shape, tuple(deployments), missing, tuple(notes))


def _absent(axis: Axis, shape: Shape, config: RunConfig) -> Iterator[str]:
    """For each kind of cut that a model of this shape does not allow: the knobs that are not searched for it."""
    offered = {knob.name for knob in axis.knobs(shape)}
    for cut, why in UNCUT.items():
        if getattr(shape, cut):
            continue
        allowed: dict[str, Any] = {cut: True}
        others = narrow_axis(axis.knobs(replace(shape, **allowed)), config.space, axis.name, config.where)
        absent = [f"{axis.name}.{knob.name}" for knob in others if knob.name not in offered and knob.single is None]
        if absent:
            yield f"{why}; {', '.join(absent)} is not searched"


def _deployments(
    config: RunConfig, names: Sequence[str], offered: Sequence[Value], knobs: Mapping[str, Knob], context: Context
) -> tuple[list[Deployment], dict[str, str]]:
    """What can run here of the runtimes of these names; and of others, why they cannot."""
    named, generates = config.space.get("runtime") is not None, task_of(config).generates
    deployments: list[Deployment] = []
    missing: dict[str, str] = {}
    for name in names:
        if name in registry.OPT_IN_RUNTIMES and not named:
            continue
        runtime = registry.runtime_named(name)
        kinds = runtime.cache_kinds(context) if isinstance(runtime, GeneratingRuntime) else ()
        caches = caches_of(config, knobs, kinds)
        why = runtime.missing(context)
        if why is None and generates and not kinds:
            why = "it does not generate text"
        if why is None and not caches:
            why = f"it has no {listed(knobs[CACHE].choices)} cache; it has {listed(kinds)}"
        if why is not None:
            missing[runtime.name] = why
            continue
        generating = runtime if generates and isinstance(runtime, GeneratingRuntime) else None
        kernels = generating.generating_precisions if generating is not None else runtime.precisions
        here = [precision for precision in kernels(context) if precision in offered]
        every = every_deployment(config, knobs, runtime.name, here, caches)
        possible = [one for one in every if one.possible]
        if every and not possible:
            missing[runtime.name] = "prompt_lookup is searched under onnx in fp32 alone"
        deployments += possible
    return deployments, missing


def _precisions(precision: Knob, config: RunConfig, context: Context, notes: list[str]) -> tuple[Value, ...]:
    """The wanted precisions; adds to `notes` why a named one has no kernel here."""
    if "precision" not in (config.space.get("bits") or {}):
        return tuple(w for w in precision.choices if w not in OPT_IN_PRECISIONS)
    where = config.where(f"space.{PRECISION}")
    notes += [f"{where}: {why}" for named in precision.choices if (why := lacking(named, context)) is not None]
    return precision.choices


def _with_kernels(pattern: Knob, context: Context, where: str, notes: list[str]) -> Knob:
    """The knob without values that no kernel here runs, so that nothing is trained for them; adds a note.

    Raises:
        UserError: no value would be left.
    """
    if pattern.single == pattern.off or (why := two_of_four.missing(context)) is None:
        return pattern
    if pattern.off not in pattern.choices:
        raise UserError(f"{where}: {why}")
    notes.append(f"{where}: only {pattern.off}: {why}")
    return pattern.fixed(pattern.off)


def anchors(space: Space) -> list[dict[str, Value]]:
    """The first settings of a search: each axis alone at a moderate setting, then combinations.

    Values are the nearest ones of the space; settings that the space does not have are left out.
    """
    proven = [d for d in space.deployments if d.precision not in UNPROVEN and not d.cache.lossy]
    best = (proven or space.deployments)[-1]
    shares = [
        {"distill.layers": 0.67},
        {"prune.heads": 0.67, "prune.neurons": 0.5},
        {"low_rank.rank": 0.5},
        {"distill.layers": 0.67, "prune.heads": 0.67, "prune.neurons": 0.5},
        {"distill.layers": 0.5, "prune.neurons": 0.5},
    ]
    settings = []
    for wanted in shares:
        params = {n: _moderate(space.knobs[n], share) for n, share in wanted.items() if n in space.searched}
        if params:
            full = {**{n: k.off for n, k in space.searched.items()}, **params, **best.settings}
            chosen = space.complete({n: v for n, v in full.items() if n in space.searched})
            if space.contains(chosen) and chosen not in settings:
                settings.append(chosen)
    return settings


def _moderate(knob: Knob, share: float) -> Value:
    """The value of an ordered knob nearest to `share` of its off value."""
    assert not isinstance(knob.off, str)
    target = share * knob.off
    if knob.step is None:
        assert knob.low is not None and knob.high is not None
        return min(max(target, knob.low), knob.high)
    return min(knob.values(), key=lambda v: abs(float(v) - target))


def random_settings(space: Space, rng: Any) -> dict[str, Value]:
    """Uniformly drawn settings; `rng` is a numpy generator."""
    drawn: dict[str, Value] = {}
    for name, knob in space.searched.items():
        values: Sequence[Value] = knob.values()
        if knob.ordered and knob.step is None:
            assert knob.low is not None and knob.high is not None
            drawn[name] = float(rng.uniform(knob.low, knob.high))
        else:
            drawn[name] = values[int(rng.integers(len(values)))]
    return space.complete(drawn)
