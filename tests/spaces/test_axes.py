"""The contract of every axis: what holds for all of them, whatever they do."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from models import Subject, built, logits, middling, shape_after, shape_of, sizes, subject, tiny, weights

from spaces import build, registry
from spaces.axis import Axis
from spaces.base import skeleton, write_folder
from spaces.errors import Infeasible
from spaces.knob import Knob, Settings, Value
from spaces.recipe import DEPLOYED, Step, canonical

#: What a search measures for a mode, by its value.
MEASURED: dict[Value, dict[str, Value]] = {"faster": {"costs": "5 0.001 0 0.01"}}
AXES = pytest.mark.parametrize("axis", registry.axes(), ids=lambda a: a.name)


@pytest.fixture(params=[("bert", "mean"), ("llama", "native")], ids="-".join)
def original(request: pytest.FixtureRequest) -> Subject:
    """The embedding's size is cut where the head gives one."""
    case, head = request.param
    asked = request.node.callspec.params
    names = asked.get("names", [asked["axis"].name] if "axis" in asked else [])
    return subject(case, "embedding" if "embedding" in names else head)


def settings_of(axis: Axis, original: Subject) -> list[dict[str, Value]]:
    """The middle of everything; each size alone at its smallest; every mode with the middle, and what it is given.

    Of a mode that is a long range, a few values with both ends.
    """
    knobs = axis.knobs(original.statistics.shape)
    off = {k.name: k.off for k in knobs}
    middle = middling(axis, original.statistics.shape)
    alone = [{**off, k.name: k.values()[0]} for k in sizes(axis, original.statistics.shape)]
    methods = [k for k in knobs if k.method]
    modes = [{**active(k, middle), k.name: choice, **MEASURED.get(choice, {})} for k in methods for choice in chosen(k)]
    return [middle, *alone, *modes]


def active(knob: Knob, settings: dict[str, Value]) -> dict[str, Value]:
    """The settings, changed where the knob would be inactive under them."""
    return settings if knob.needs is None or knob.applies(settings) else {**settings, knob.needs[0]: knob.needs[1][0]}


def chosen(knob: Knob) -> list[Value]:
    """All choices; of a long range about five values, both ends among them."""
    values = knob.values()
    step = max(1, len(values) // 4) if knob.ordered else 1
    return list(dict.fromkeys([*values[::step], values[-1]]))


# --- knobs --------------------------------------------------------------------------------------------------


@AXES
def test_every_knob_can_be_off_and_its_values_are_its_range(axis: Axis, original: Subject) -> None:
    knobs = axis.knobs(original.statistics.shape)
    assert any(not k.method for k in knobs)
    assert len({k.name for k in knobs}) == len(knobs)
    for knob in knobs:
        values = knob.values()
        assert knob.off in values and knob.help
        assert len(set(values)) == len(values)
        if knob.ordered:
            assert not knob.choices and values == sorted(values)
            assert (values[0], values[-1]) == (knob.low, knob.high)
            assert len({type(v) for v in [*values, knob.off]}) == 1


@AXES
def test_the_registry_is_in_phase_order_and_finds_its_axes_by_name(axis: Axis) -> None:
    assert [a.phase for a in registry.axes()] == sorted(a.phase for a in registry.axes())
    assert registry.axis_named(axis.name) is axis and axis.source


# --- off ----------------------------------------------------------------------------------------------------


@AXES
@pytest.mark.parametrize("named", [True, False], ids=["off", "absent"])
def test_off_is_the_identity(axis: Axis, original: Subject, named: bool) -> None:
    off = {k.name: k.off for k in axis.knobs(original.statistics.shape)} if named else {}
    plan = axis.decide(original.statistics, off)
    model = build.build(original.model, {axis.name: plan}, original.statistics)
    assert axis.carry(original.statistics, plan).shape == original.statistics.shape
    torch.testing.assert_close(logits(model, original.batch), original.logits, atol=1e-5, rtol=1e-5)


def test_no_plan_is_a_copy(original: Subject) -> None:
    model = build.build(original.model, {}, None)
    assert model is not original.model
    assert torch.equal(logits(model, original.batch), original.logits)


# --- shape --------------------------------------------------------------------------------------------------


@AXES
def test_decide_and_carry_predict_the_built_shape(axis: Axis, original: Subject) -> None:
    for settings in settings_of(axis, original):
        model, plans = built(original, Step(axis.name, settings))
        expected = shape_after(plans, original.statistics)
        assert shape_of(model, original.statistics.shape) == expected, settings


@AXES
def test_reshape_alone_gives_every_tensor_its_final_size(axis: Axis, original: Subject) -> None:
    """So the latency of a plan can be measured on an untrained copy, and saved weights fit."""
    model, plans = built(original, Step(axis.name, middling(axis, original.statistics.shape)))
    empty = skeleton(original.base)
    for name, plan in plans.items():
        registry.axis_named(name).reshape(empty, plan)
    assert {n: t.shape for n, t in empty.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


@AXES
def test_a_smaller_setting_never_makes_a_larger_model(axis: Axis, original: Subject) -> None:
    if axis.name in DEPLOYED:
        pytest.skip("precisions and caches change no count of weights")
    if axis.name == "embedding":
        pytest.skip("what gets smaller is an index: the model has a matrix more")
    off = {k.name: k.off for k in axis.knobs(original.statistics.shape)}
    for knob in sizes(axis, original.statistics.shape):
        counts = []
        for value in knob.values():
            model, _ = built(original, Step(axis.name, {**off, knob.name: value}))
            counts.append(sum(p.numel() for p in model.parameters()))
        assert counts == sorted(counts), knob.name
        assert counts[0] < counts[-1] == sum(p.numel() for p in original.model.parameters())


# --- plans --------------------------------------------------------------------------------------------------


@AXES
def test_a_plan_survives_json(axis: Axis, original: Subject) -> None:
    for settings in settings_of(axis, original):
        plan = axis.decide(original.statistics, settings)
        again = json.loads(canonical(plan))
        assert again == plan
        outputs = [
            logits(build.build(original.model, {axis.name: p}, original.statistics), original.batch)
            for p in (plan, again)
        ]
        assert torch.equal(*outputs), settings


@AXES
def test_the_same_inputs_give_the_same_result(axis: Axis, original: Subject) -> None:
    step = Step(axis.name, middling(axis, original.statistics.shape))
    (one, first), (two, second) = built(original, step), built(original, step)
    assert first == second
    ours, theirs = weights(one), weights(two)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@AXES
def test_the_source_and_its_statistics_are_left_untouched(axis: Axis, original: Subject) -> None:
    before, config = weights(original.model), original.model.backbone.config.to_dict()
    tensors = {n: t.clone() for n, t in original.statistics.tensors.items()}
    modules = [(name, id(module)) for name, module in original.model.named_modules()]
    model, _ = built(original, Step(axis.name, middling(axis, original.statistics.shape)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # would show in the source if they shared memory
    after = weights(original.model)
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert [(name, id(module)) for name, module in original.model.named_modules()] == modules
    assert original.model.backbone.config.to_dict() == config
    assert tensors.keys() == original.statistics.tensors.keys()
    assert all(torch.equal(tensors[n], t) for n, t in original.statistics.tensors.items())


@AXES
def test_a_reloaded_model_is_the_one_that_was_built(axis: Axis, original: Subject, tmp_path: Path) -> None:
    for number, settings in enumerate(settings_of(axis, original)):
        model, plans = built(original, Step(axis.name, settings))
        write_folder(tmp_path / str(number), model, original.base, plans)
        again = build.load_model(tmp_path / str(number))
        assert not again.training
        assert torch.equal(logits(again, original.batch), logits(model, original.batch)), settings


@pytest.mark.parametrize(
    ("axis", "settings"),
    [
        ("distill", {"layers": 0}),
        ("distill", {"layers": 4}),
        ("prune", {"heads": 0.0}),
        ("prune", {"neurons": 1.5}),
        ("low_rank", {"rank": 0.0}),
        ("low_rank", {"rank": 1.5}),
        ("low_rank", {"where": "faster"}),  # by what costs?
        ("sparse", {"weights": 0.0}),
        ("sparse", {"weights": 1.5}),
        ("sparse", {"pattern": "2-of-4"}),  # all weights stay
        ("bits", {"precision": "int3"}),
        ("bits", {"embeddings": "int3"}),
        ("bits", {"fp32_blocks": -1}),
        ("bits", {"fp32_blocks": 2}),  # the precision is fp32
        ("bits", {"int8_blocks": -1}),
        ("bits", {"int8_blocks": 2}),
    ],
)
def test_settings_out_of_range_are_infeasible_and_name_the_knob_and_the_value(axis: str, settings: Settings) -> None:
    ((knob, value),) = settings.items()
    with pytest.raises(Infeasible, match=rf"{axis}\.{knob}.*{value}"):
        registry.axis_named(axis).decide(subject().statistics, settings)


# --- together -----------------------------------------------------------------------------------------------

CUTTING = [a.name for a in registry.axes() if a.name not in DEPLOYED]
MIXES = [mix for size in (2, len(CUTTING)) for mix in itertools.combinations(CUTTING, size)]
MIXES.append(tuple(name for name in CUTTING if name != "embedding"))


@pytest.mark.parametrize("names", MIXES, ids="+".join)
def test_axes_compose(names: tuple[str, ...], original: Subject, tmp_path: Path) -> None:
    shape = original.statistics.shape
    params = {f"{n}.{k}": v for n in names for k, v in middling(registry.axis_named(n), shape).items()}
    steps = build.steps_of(params | {"bits.precision": "int8"}, shape)
    assert [s.name for s in steps] == [*names, "bits"]
    model, plans = built(original, *steps)
    assert list(plans) == list(names)  # the precision plan is lowered by the runtime
    output = logits(model, original.batch)
    assert output.shape[:-1] == original.logits.shape[:-1] and bool(output.isfinite().all())
    assert output.shape[-1] == (plans["embedding"]["size"] if "embedding" in names else original.logits.shape[-1])
    assert shape_of(model, shape) == shape_after(plans, original.statistics)
    write_folder(tmp_path, model, original.base, plans)
    assert torch.equal(logits(build.load_model(tmp_path), original.batch), output)


def test_an_axis_that_cuts_a_cut_model_sees_it_as_the_one_before_left_it() -> None:
    """Carried statistics name the same units as statistics of the cut model would."""
    original = subject()
    plan = registry.axis_named("prune").decide(original.statistics, {"heads": 0.5, "neurons": 0.5})
    carried = registry.axis_named("prune").carry(original.statistics, plan)
    again = registry.axis_named("prune").decide(carried, {})
    model = build.build(original.model, {"prune": plan}, original.statistics)
    same = build.build(model, {"prune": again}, carried)
    assert torch.equal(logits(same, original.batch), logits(model, original.batch))


def test_a_tiny_model_is_the_same_every_time() -> None:
    """Guards these tests: a random model that differs from run to run hides what it finds."""
    (one, base), (two, _) = tiny(), tiny()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert base == subject().base
