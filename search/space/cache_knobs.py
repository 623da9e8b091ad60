"""The caches of a generating task: as restricted by the user, and as provided by a runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product

from objectives import roofline
from search.config.schema import RunConfig
from search.config.space_section import narrow_axis
from search.errors import UserError
from search.tasks import task_of
from spaces.axes.cache import OPT_IN_KINDS, cache_settings
from spaces.axis import Axis
from spaces.generation.program import CacheSettings
from spaces.knob import Knob
from spaces.shape import NO_SHAPE


def cache_knobs(config: RunConfig, axis: Axis) -> dict[str, Knob]:
    """The knobs of the axis `cache` by `<axis>.<knob>`; none for a task that does not generate.

    Raises:
        UserError: a cache for such a task, one whose loss could not be measured on rows as short as these, or
            speculation where it cannot be timed.
    """
    generates = task_of(config).generates
    narrowed = narrow_axis(axis.knobs(NO_SHAPE) if generates else (), config.space, axis.name, config.where)
    knobs = {f"{axis.name}.{knob.name}": _doubled(knob) for knob in narrowed}
    if not generates:
        return {}
    kind = knobs["cache.kind"]
    if "kind" not in (config.space.get(axis.name) or {}) and kind.single is None:
        kind = Knob(kind.name, kind.off, kind.help, tuple(k for k in kind.choices if k not in OPT_IN_KINDS))
        knobs["cache.kind"] = kind
    if knobs["cache.speculation"].single != CacheSettings().speculation:
        _check_speculation(config)
    longest = config.data.max_length
    for chosen in _caches(map(str, kind.choices), knobs):
        # The last token of a row is only predicted, never fed to the model.
        if chosen.exact_tokens is not None and chosen.exact_tokens > longest - 2:
            size = "window" if chosen.kind == "sliding" else "recent"
            raise UserError(
                f"{config.where('data.max_length')}: must be at least {chosen.exact_tokens + 2} tokens for the loss of "
                f"the {chosen.kind} cache with cache.{size} {getattr(chosen, size)} to be measured, got {longest}"
            )
    return knobs


def _check_speculation(config: RunConfig) -> None:
    """Raise UserError for several rows a call, prompts longer than texts, or a roofline."""
    if config.workload.batch != 1:
        raise UserError(
            f"{config.where('workload.batch')}: must be 1 for space.cache.speculation, which reads one row a call, got "
            f"{config.workload.batch}"
        )
    if (config.workload.prompt or 0) > config.data.max_length:
        raise UserError(
            f"{config.where('workload.prompt')}: must be at most data.max_length ({config.data.max_length}) for "
            f"space.cache.speculation, whose timed calls continue texts of the data, got {config.workload.prompt}"
        )
    counted = {objective.name for objective in roofline.OBJECTIVES}
    for key, name in config.named_objectives():
        if name in counted:
            raise UserError(
                f"{config.where(key)}: must be no roofline with space.cache.speculation, got {name}: a roofline counts "
                "one reading of the weights for each token, and speculation reads them once for several"
            )


def _doubled(knob: Knob) -> Knob:
    """A size on a logarithmic scale as choices, each a deployment: doublings of its low end, and its high end."""
    if not knob.log:
        return knob
    assert knob.low is not None and knob.high is not None
    sizes = [knob.low]
    while 2 * sizes[-1] < knob.high:
        sizes.append(2 * sizes[-1])
    return replace(knob, choices=(*sizes, knob.high), low=None, high=None, log=False)


def caches_of(config: RunConfig, knobs: Mapping[str, Knob], kinds: Sequence[str]) -> list[CacheSettings]:
    """The wanted caches of a runtime's `kinds`, its default first; without the axis only the default.

    For a task that does not generate, one placeholder.
    """
    if "cache.kind" not in knobs:
        return [CacheSettings()]
    off = "cache" in config.space and config.space["cache"] is None
    wanted = kinds[:1] if off else [str(kind) for kind in knobs["cache.kind"].choices if kind in kinds]
    return _caches(wanted, knobs)


def _caches(kinds: Iterable[str], knobs: Mapping[str, Knob]) -> list[CacheSettings]:
    """Caches of these kinds, in all sizes of the knobs."""
    names = ("recent", "window", "sinks", "speculation")
    sizes = [knobs[f"cache.{name}"].values() for name in names]
    every = [
        cache_settings({"kind": kind, **dict(zip(names, chosen, strict=True))})
        for kind in kinds
        for chosen in product(*sizes)
    ]
    return list(dict.fromkeys(every))
