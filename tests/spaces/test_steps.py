"""Steps of a recipe hold what is not off, in one spelling."""

from __future__ import annotations

import pytest
from models import sizes, subject

from spaces import build, registry
from spaces.axis import Axis
from spaces.knob import Knob, Settings, Value
from spaces.recipe import Step, canonical

AXES = pytest.mark.parametrize("axis", registry.axes(), ids=lambda a: a.name)


def test_axes_that_are_off_leave_nothing_behind() -> None:
    shape = subject().statistics.shape
    off: dict[str, Value] = {f"{a.name}.{k.name}": k.off for a in registry.axes() for k in a.knobs(shape)}
    assert build.steps_of({}, shape) == build.steps_of(off, shape) == ()


@AXES
def test_a_method_alone_does_not_switch_an_axis_on(axis: Axis) -> None:
    shape = subject().statistics.shape
    for knob in axis.knobs(shape):
        if knob.method:
            for value in knob.values():
                assert build.steps_of({f"{axis.name}.{knob.name}": value}, shape) == ()


@AXES
def test_a_step_names_what_is_not_off_and_nothing_else(axis: Axis) -> None:
    shape = subject().statistics.shape
    knobs = axis.knobs(shape)
    off: dict[str, Value] = {f"{axis.name}.{k.name}": k.off for k in knobs}
    for knob in sizes(axis, shape):
        value = next(v for v in knob.values() if v != knob.off)
        for settings in ({}, off):
            assert build.steps_of({**settings, f"{axis.name}.{knob.name}": value}, shape) == (
                Step(axis.name, {knob.name: value}),
            )
        for method in (k for k in knobs if k.method):
            other = next(v for v in method.values() if v != method.off)
            (step,) = build.steps_of({f"{axis.name}.{knob.name}": value, f"{axis.name}.{method.name}": other}, shape)
            applies = method.applies({**{k.name: k.off for k in knobs}, knob.name: value})
            assert step.settings == ({knob.name: value, method.name: other} if applies else {knob.name: value})


def test_blocks_stay_wide_only_under_an_integer_precision() -> None:
    """A draw of `bits.fp32_blocks` beside fp32 is the recipe without it, so it is answered and not built again."""
    shape = subject().statistics.shape
    for precision in ("fp32", "bf16", "fp16", "fp8"):
        plain = build.steps_of({"bits.precision": precision, "bits.embeddings": "int8"}, shape)
        assert (
            build.steps_of({"bits.precision": precision, "bits.embeddings": "int8", "bits.fp32_blocks": 2}, shape)
            == plain
        )
    for precision in ("int8", "int8-static", "int4"):
        steps = build.steps_of({"bits.precision": precision, "bits.fp32_blocks": 2}, shape)
        assert steps == (Step("bits", {"precision": precision, "fp32_blocks": 2}),)
    assert "fp32_blocks" not in {k.name for k in registry.axis_named("bits").knobs(build.NO_SHAPE)}
    for precision in ("int8", "int4"):
        (step,) = build.steps_of({"bits.precision": precision, "bits.int8_blocks": 2}, shape)
        assert step.settings == {"precision": precision, **({"int8_blocks": 2} if precision == "int4" else {})}


@pytest.mark.parametrize(
    ("settings", "plan"),
    [
        ({}, {"precision": "fp32"}),
        ({"precision": "int8", "fp32_blocks": 0, "embeddings": "as-is"}, {"precision": "int8"}),
        ({"precision": "int8", "fp32_blocks": 2}, {"precision": "int8", "fp32_blocks": 2}),
        ({"precision": "int4", "int8_blocks": 2}, {"precision": "int4", "int8_blocks": 2}),
        ({"precision": "int4", "int8_blocks": 0}, {"precision": "int4"}),
        ({"embeddings": "int8"}, {"precision": "fp32", "embeddings": "int8"}),
    ],
)
def test_a_precision_plan_holds_only_what_is_not_off(settings: Settings, plan: dict[str, Value]) -> None:
    assert registry.axis_named("bits").decide(subject().statistics, settings) == plan


def test_numbers_that_are_equal_on_the_grid_give_equal_text() -> None:
    """1 and 1.0, 4.0 and 4, and 0.1 + 0.2 and 0.3 are one setting, so one recipe."""
    shape = subject().statistics.shape
    plain = build.steps_of({"prune.heads": 0.5, "distill.layers": 2, "low_rank.rank": 0.3}, shape)
    other = build.steps_of(
        {"prune.heads": 0.5, "prune.neurons": 1, "distill.layers": 2.0, "low_rank.rank": 0.1 + 0.2}, shape
    )
    assert [canonical(dict(s.settings)) for s in plain] == [canonical(dict(s.settings)) for s in other]


def test_without_an_anatomy_only_axes_that_need_none_remain() -> None:
    steps = build.steps_of({"prune.heads": 0.5, "distill.layers": 1, "bits.precision": "int8"}, None)
    assert [s.name for s in steps] == ["bits"]
    assert build.decide(steps, None) == {}


def test_a_knob_without_a_step_gives_its_ends_and_a_fixed_one_its_value() -> None:
    free = Knob("rate", off=0.0, low=0.0, high=1.0, help="")
    assert free.values() == [0.0, 1.0] and free.single is None
    assert free.fixed(0.5).values() == [0.5] and free.fixed(0.5).single == 0.5
    chosen = Knob("kind", off="a", choices=("a", "b"), help="")
    assert chosen.single is None and chosen.fixed("b").single == "b"
    assert Knob("share", off=1.0, low=0.1, high=1.0, step=0.1, help="").values()[2] == 0.3
