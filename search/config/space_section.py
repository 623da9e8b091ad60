"""The `space` section: the user's restrictions of knobs, and their application to the knobs of an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from annotated_types import Predicate
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from search.config.parse import SECTION, Flag, parse, switched
from search.errors import UserError, Where, listed, show, unknown, wrong

if TYPE_CHECKING:  # `spaces` brings torch, and the command line reads this module at its start
    from spaces.knob import Knob, Value

#: "off", a value, [low, high] or [choice, ...], or {low, high, step, log}.
Spec: TypeAlias = int | float | str | list[int | float | str] | dict[str, Any]
#: The checked section; None is an axis that is off.
SpaceSection: TypeAlias = Mapping[str, Mapping[str, Spec] | None]

OFF = "off"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_value(value: Any) -> bool:
    return _is_number(value) or isinstance(value, str) or value is False


# The type is checked later, when the knob is known.
Figure = Annotated[Any, Predicate(_is_number), Field(description="a number")]
Item = Annotated[Any, Predicate(_is_value), Field(description="a number or a name")]


@dataclass(frozen=True, config=SECTION)
class Range:
    """The user's range of a knob; None: the knob's own value."""

    low: Figure | None = None
    high: Figure | None = None
    step: Figure | None = None
    log: Flag | None = None


RANGE = TypeAdapter(Range)
LIST = TypeAdapter(Annotated[list[Item], Field(min_length=1)])
SINGLE_VALUE = TypeAdapter(
    Annotated[Any, Predicate(_is_value), Field(description="off, a value, a list, or {low, high, step, log}")]
)


def check_space(raw: Any, axes: Mapping[str, tuple[str, ...]], where: Where) -> SpaceSection:
    """The section with known axes and knobs and well-formed specs.

    Names are checked here and not by pydantic, because the registries have them. An axis or knob that is absent, null
    or `on` keeps its full range, and is left out of the result.
    """
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise wrong(where("space"), f"a mapping of axes ({listed(axes)})", raw)
    space: dict[str, dict[str, Spec] | None] = {}
    for axis, knobs in raw.items():
        key = f"space.{axis}"
        if axis not in axes:
            raise unknown(where(key), "axis", axis, axes)
        if knobs is None or switched(knobs) is True:
            continue
        if _is_off(knobs):
            space[axis] = None
        elif isinstance(knobs, Mapping):
            space[axis] = _check_knobs(knobs, axes[axis], where, key)
        else:
            raise wrong(where(key), f"off, or a mapping of its knobs ({listed(axes[axis])})", knobs)
    return space


def narrow_axis(knobs: Sequence[Knob], space: SpaceSection, axis: str, where: Where) -> tuple[Knob, ...]:
    """All knobs of `axis`, restricted by `space`. A method or opt-in knob that is not named is fixed at `off`.

    `space` is the whole checked section (`RunConfig.space`), `where` is `RunConfig.where`.
    """
    if axis in space and space[axis] is None:
        return tuple(knob.fixed(knob.off) for knob in knobs)
    specs = space.get(axis) or {}
    offered = [knob.name for knob in knobs]
    for name, spec in specs.items():
        if name not in offered and not _is_off(spec):
            at = where(f"space.{axis}.{name}")
            if not offered:
                raise UserError(f"{at}: must be left out: this model and task have nothing that {axis} changes")
            raise UserError(f"{at}: this model does not have this knob; its knobs of {axis}: {listed(offered)}")
    narrowed = []
    for knob in knobs:
        if knob.name in specs:
            narrowed.append(narrow(knob, specs[knob.name], where(f"space.{axis}.{knob.name}")))
        else:
            narrowed.append(knob.fixed(knob.off) if knob.method or knob.opt_in else knob)
    return tuple(narrowed)


def narrow(knob: Knob, spec: Any, key: str) -> Knob:
    """`knob` restricted to `spec`; `key` is where the spec was written, and begins every message.

    Raises:
        UserError: a value of the wrong type, out of the knob's range or off its grid, an unknown choice, an
            empty range.
    """
    if _is_off(spec):
        return knob.fixed(knob.off)
    return _narrow_ordered(knob, spec, key) if knob.ordered else _narrow_choices(knob, spec, key)


def _check_knobs(knobs: Mapping[str, Any], valid: Sequence[str], where: Where, key: str) -> dict[str, Spec]:
    checked: dict[str, Spec] = {}
    for name, spec in knobs.items():
        at = f"{key}.{name}"
        if name not in valid:
            raise unknown(where(at), f"knob of {key.rpartition('.')[2]}", name, valid)
        if spec is None or switched(spec) is True:
            continue
        checked[name] = OFF if _is_off(spec) else _check_spec(spec, where(at))
    return checked


def _check_spec(spec: Any, key: str) -> Spec:
    kind: TypeAdapter[Any] = RANGE if isinstance(spec, dict) else LIST if isinstance(spec, list) else SINGLE_VALUE
    parse(kind, spec, _inside(key), "unknown key of a range")
    if isinstance(spec, list) and len(spec) == 2 and all(map(_is_number, spec)) and spec[0] > spec[1]:
        raise _empty_range(key, *spec)
    return spec  # type: ignore[no-any-return]  # as it was written: the knob that it narrows is still to come


def _inside(key: str) -> Where:
    return lambda name: f"{key}.{name}" if name else key


def _is_off(value: Any) -> bool:
    return switched(value) is False


def _narrow_choices(knob: Knob, spec: Any, key: str) -> Knob:
    if isinstance(spec, Mapping):
        raise wrong(key, f"one or more of {listed(knob.choices)} (it has no order, so no range)", spec)
    wanted = [knob.off if _is_off(v) else v for v in (spec if isinstance(spec, list) else [spec])]
    for value in wanted:
        if value not in knob.choices:
            raise unknown(key, f"value of {knob.name}", value, [str(c) for c in knob.choices])
    return replace(knob, choices=tuple(c for c in knob.choices if c in wanted))


def _narrow_ordered(knob: Knob, spec: Any, key: str) -> Knob:
    if isinstance(spec, Mapping):
        return _range(knob, parse(RANGE, spec, _inside(key), "unknown key of a range"), key)
    if not isinstance(spec, list):
        return knob.fixed(knob.off if spec == knob.off else _in_range(knob, spec, key))
    ends = [_on_grid(knob, value, key) for value in spec]
    if len(ends) <= 2:
        return _range(knob, Range(ends[0], ends[-1]), key)
    steps = {round(b - a, 9) for a, b in pairwise(ends)}
    if len(steps) > 1 or min(steps) <= 0:
        raise wrong(key, "[low, high], or rising values that are equally far apart", spec)
    return _range(knob, Range(ends[0], ends[-1], ends[1] - ends[0]), key)


def _range(knob: Knob, spec: Range, key: str) -> Knob:
    """The range, with the knob's own ends, step and scale where the user sets none."""
    checked = _on_grid if spec.step is None else _in_range
    assert knob.low is not None
    assert knob.high is not None
    low = knob.low if spec.low is None else checked(knob, spec.low, f"{key}.low")
    high = knob.high if spec.high is None else checked(knob, spec.high, f"{key}.high")
    if low > high:
        raise _empty_range(key, low, high)
    if low == high:
        return knob.fixed(low)
    log = knob.log and spec.step is None if spec.log is None else spec.log
    step = None if log else knob.step
    if spec.step is not None:
        step = _typed(knob, spec.step, f"{key}.step")
        if log:
            raise UserError(f"{key}: must have a step or log: true, not both")
        if step <= 0 or not _whole((high - low) / step):
            raise wrong(f"{key}.step", f"above 0 and fit a whole number of times between {low} and {high}", step)
    if log and low <= 0:
        raise wrong(key, "above 0 at its low end to be log", low)
    return replace(knob, low=low, high=high, step=step, log=log)


def _empty_range(key: str, low: Value, high: Value) -> UserError:
    return UserError(f"{key}: empty range: low must not be above high, got low {show(low)}, high {show(high)}")


def _on_grid(knob: Knob, value: Any, key: str) -> int | float:
    number = _in_range(knob, value, key)
    if knob.step is None:
        return number
    assert knob.low is not None
    steps = (number - knob.low) / knob.step
    if not _whole(steps):
        near = min(knob.values(), key=lambda v: abs(float(v) - number))
        grid = f"on the grid {knob.low} to {knob.high} in steps of {knob.step}"
        raise wrong(key, f"{grid} (nearest: {near}; or give a step: {{low, high, step}})", value)
    return number


def _in_range(knob: Knob, value: Any, key: str) -> int | float:
    number = _typed(knob, knob.off if _is_off(value) else value, key)
    assert knob.low is not None
    assert knob.high is not None
    if not knob.low <= number <= knob.high:
        raise wrong(key, f"between {knob.low} and {knob.high}", value)
    return number


def _typed(knob: Knob, value: Any, key: str) -> int | float:
    """`value` as an int for an integer knob, as a float for a real one. Raises UserError for another type."""
    counts = isinstance(knob.low, int) and isinstance(knob.off, int)
    if not _is_number(value) or (counts and not isinstance(value, int)):
        raise wrong(key, "a whole number" if counts else "a number", value)
    return value if counts else float(value)


def _whole(ratio: float) -> bool:
    return math.isclose(ratio, round(ratio), abs_tol=1e-6)
