"""What the user writes in `space` only ever narrows what an axis offers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from search.config.load import load_config
from search.config.space_section import check_space, narrow, narrow_axis
from search.errors import UserError
from search.planning import knob_lines
from search.space.cache_knobs import cache_knobs, caches_of
from search.space.choices import names
from search.space.space import Space
from search.tasks.documents import DocumentData
from spaces.axes.cache import CacheKind
from spaces.knob import Knob

LAYERS = Knob("layers", off=6, low=1, high=6, step=1, help="")
HEADS = Knob("heads", off=1.0, low=0.25, high=1.0, step=0.125, help="")
RATE = Knob("rate", off=1.0, low=1e-4, high=1.0, log=True, help="")
PRECISION = Knob("precision", off="fp32", choices=("fp32", "bf16", "int8"), help="")
MODE = Knob("criterion", off="fisher", choices=("fisher", "magnitude"), method=True, help="")
KEY = "c.yaml: space.a.b"


@pytest.mark.parametrize(
    ("knob", "spec", "values"),
    [
        (LAYERS, [2, 6], [2, 3, 4, 5, 6]),
        (LAYERS, [2, 4, 6], [2, 4, 6]),
        (LAYERS, [3], [3]),
        (LAYERS, 4, [4]),
        (LAYERS, {"low": 4}, [4, 5, 6]),
        (LAYERS, {"low": 2, "step": 2}, [2, 4, 6]),
        (LAYERS, "off", [6]),
        (LAYERS, False, [6]),
        (HEADS, [0.5, 0.75], [0.5, 0.625, 0.75]),
        (HEADS, [0.5, 1], [0.5, 0.625, 0.75, 0.875, 1.0]),
        (HEADS, 0.3, [0.3]),
        (HEADS, {"low": 0.3, "high": 0.9, "step": 0.3}, [0.3, 0.6, 0.9]),
        (HEADS, {"low": 0.3, "high": 0.3, "step": 0.1}, [0.3]),
        (HEADS, [0.5, False], [0.5, 0.625, 0.75, 0.875, 1.0]),
        (RATE, [1e-3, 1e-1], [1e-3, 1e-1]),
        (PRECISION, ["int8", "fp32"], ["fp32", "int8"]),
        (PRECISION, "int8", ["int8"]),
        (PRECISION, ["int8", False], ["fp32", "int8"]),
        (PRECISION, "off", ["fp32"]),
    ],
)
def test_a_spec_gives_these_values(knob: Knob, spec: Any, values: list[Any]) -> None:
    knob_values = narrow(knob, spec, KEY).values()
    assert knob_values == (pytest.approx(values) if knob.ordered else values)


@pytest.mark.parametrize("knob", [LAYERS, HEADS, PRECISION, MODE])
def test_the_full_range_changes_nothing_and_off_is_always_allowed(knob: Knob) -> None:
    full = [knob.low, knob.high] if knob.ordered else list(knob.choices)
    assert narrow(knob, full, KEY) == knob
    assert narrow(knob, "off", KEY).single == knob.off


def test_a_range_keeps_the_knobs_scale_unless_the_user_gives_one() -> None:
    assert narrow(RATE, [1e-3, 1e-1], KEY).log
    assert not narrow(RATE, {"low": 0.1, "high": 0.5, "step": 0.1}, KEY).log
    assert narrow(HEADS, {"low": 0.25, "high": 0.5, "log": True}, KEY).step is None


def test_a_knob_that_measures_takes_whole_numbers_as_its_own_kind() -> None:
    assert isinstance(narrow(HEADS, 1, KEY).single, float)
    assert isinstance(narrow(LAYERS, 2, KEY).single, int)


@pytest.mark.parametrize(
    ("knob", "spec", "message"),
    [
        (LAYERS, 7, "must be between 1 and 6, got 7"),
        (LAYERS, [0, 6], "must be between 1 and 6, got 0"),
        (LAYERS, {"low": 5, "high": 9}, r"space.a.b.high: must be between 1 and 6, got 9"),
        (LAYERS, 2.5, "must be a whole number, got 2.5"),
        (LAYERS, "two", 'must be a whole number, got "two"'),
        (LAYERS, [5, 2], "empty range: low must not be above high, got low 5, high 2"),
        (LAYERS, [1, 2, 6], "must be .low, high., or rising values that are equally far apart"),
        (LAYERS, [1, 1, 1], "rising values"),
        (
            LAYERS,
            {"low": 1, "high": 6, "step": 2},
            "step: must be above 0 and fit a whole number of times between 1 and 6",
        ),
        (LAYERS, {"step": 0}, "step: must be above 0"),
        (LAYERS, {"step": 1, "log": True}, "must have a step or log: true, not both"),
        (HEADS, [0.3, 1.0], r"on the grid 0.25 to 1.0 in steps of 0.125 \(nearest: 0.25"),
        (HEADS, "half", 'must be a number, got "half"'),
        (PRECISION, "int9", r'unknown value of precision "int9"; did you mean "int8"\? \(valid: fp32, bf16, int8\)'),
        (PRECISION, 8, "unknown value of precision 8"),
        (PRECISION, {"low": 1}, "must be one or more of fp32, bf16, int8"),
    ],
)
def test_what_is_out_of_reach_is_refused_by_name(knob: Knob, spec: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        narrow(knob, spec, KEY)
    assert str(caught.value).startswith(KEY)
    assert re.search(message, str(caught.value)), caught.value


def test_an_axis_that_is_off_is_fixed_and_one_that_is_absent_is_whole() -> None:
    knobs = (HEADS, MODE)
    assert [k.single for k in narrow_axis(knobs, {"prune": None}, "prune", str)] == [1.0, "fisher"]
    assert narrow_axis((HEADS,), {}, "prune", str) == (HEADS,)


def test_a_mode_knob_is_searched_only_when_it_is_named() -> None:
    assert narrow_axis((MODE,), {}, "prune", str)[0].single == "fisher"
    opened = narrow_axis((MODE,), {"prune": {"criterion": ["fisher", "magnitude"]}}, "prune", str)
    assert opened == (MODE,)


def test_a_closed_knob_is_searched_only_when_it_is_named() -> None:
    opt_in = Knob("embeddings", off="as-is", choices=("as-is", "int8"), opt_in=True, help="")
    assert narrow_axis((opt_in,), {}, "bits", str)[0].single == "as-is"
    opened = narrow_axis((opt_in,), {"bits": {"embeddings": ["as-is", "int8"]}}, "bits", str)
    assert opened[0].choices == ("as-is", "int8")


def test_a_knob_that_this_model_does_not_have_is_refused_unless_it_is_off() -> None:
    with pytest.raises(UserError, match=r"space.prune.neurons: this model does not .* knobs of prune: heads"):
        narrow_axis((HEADS,), {"prune": {"neurons": 0.5}}, "prune", str)
    assert narrow_axis((HEADS,), {"prune": {"neurons": "off"}}, "prune", str) == (HEADS,)


def test_errors_of_the_section_say_where() -> None:
    with pytest.raises(UserError, match=r'c.yaml: space.a.c: unknown knob of a "c" \(valid: b\)'):
        check_space({"a": {"c": 1}}, {"a": ("b",)}, lambda key: f"c.yaml: {key}")


def test_a_plan_lists_what_a_knob_can_take() -> None:
    """A few values by themselves, more of them as a range with its steps; what has no steps is no list of two ends."""
    neurons = Knob("neurons", off=96, low=8, high=128, step=8, help="")
    share = Knob("share", off=1.0, low=0.5, high=1.0, help="")
    knobs = {"a.layers": LAYERS, "a.neurons": neurons, "a.share": share, "a.rate": RATE, "a.criterion": MODE}
    assert [line.split(maxsplit=1)[1] for line in knob_lines(Space(knobs, None, ()))] == [
        "1, 2, 3, 4, 5, 6",
        "8 to 128 in steps of 8",
        "0.5 to 1",
        "0.0001 to 1 on a logarithmic scale",
        "fisher, magnitude",
    ]


def test_the_sizes_of_a_cache_are_all_listed_because_each_is_a_deployment() -> None:
    spec = {"kind": ["dynamic", "sliding"], "window": {"low": 64, "high": 480, "log": True}}
    config = load_config(None, [], names())
    data = DocumentData("texts.jsonl", max_length=1024)
    config = replace(config, task="causal-lm", data=data, space={"cache": spec})
    knobs = cache_knobs(config, CacheKind())
    assert [line.split(maxsplit=1) for line in knob_lines(Space(knobs, None, ()))] == [
        ["cache.kind", "dynamic, sliding"],
        ["cache.window", "64, 128, 256, 480"],
    ]
    sliding = [one for one in caches_of(config, knobs, ("dynamic", "sliding")) if one.kind == "sliding"]
    assert [one.window for one in sliding] == [64, 128, 256, 480]
