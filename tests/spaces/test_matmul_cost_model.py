"""Costs of matrix products: what is planted is found, and factors are kept exactly where they pay."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping

import numpy as np
import pytest
from models import built, subject

from spaces import build, registry
from spaces.axes.low_rank import break_even
from spaces.errors import Infeasible
from spaces.knob import Value
from spaces.matmul_cost_model import Costs, fit_costs
from spaces.recipe import Recipe, Step, canonical

SIZES = [(384, 384), (384, 1536), (1536, 384), (384, 96), (96, 384), (384, 24), (24, 1536), (1536, 24)]
PLANTED = [
    Costs(4.0, 2e-4, 1e-3, 2e-3),
    Costs(0.0, 1e-3, 0.0, 0.0),
    Costs(12.0, 0.0, 0.0, 0.0),
    Costs(7.0, 5e-5, 0.0, 4e-2),
]


@pytest.mark.parametrize("planted", PLANTED, ids=Costs.text)
def test_the_fit_recovers_planted_costs(planted: Costs) -> None:
    costs = fit_costs(SIZES, [planted.of(*size) for size in SIZES])
    np.testing.assert_allclose(
        [costs.call, costs.weight, costs.read, costs.write],
        [planted.call, planted.weight, planted.read, planted.write],
        rtol=1e-6,
        atol=1e-9,
    )


def test_noise_of_some_percent_moves_predicted_times_by_no_more() -> None:
    planted, noise = PLANTED[0], np.random.default_rng(0).normal(1, 0.05, len(SIZES))
    costs = fit_costs(SIZES, [planted.of(*size) * factor for size, factor in zip(SIZES, noise, strict=True)])
    for size in SIZES:
        assert costs.of(*size) == pytest.approx(planted.of(*size), rel=0.1)


@pytest.mark.parametrize(("sizes", "times"), [(SIZES[:3], [1.0] * 3), (SIZES, [1.0]), (SIZES, [0.0] * 8)])
def test_too_little_to_fit_is_refused(sizes: list[tuple[int, int]], times: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least 4 sizes|above 0"):
        fit_costs(sizes, times)


@pytest.mark.parametrize("planted", PLANTED, ids=Costs.text)
def test_costs_survive_their_text(planted: Costs) -> None:
    assert Costs.parse(planted.text()) == planted
    long = Costs(1 / 3, 2 / 3e5, 0.0, 12345.678)
    assert Costs.parse(long.text()).text() == long.text() == "0.333 6.67e-06 0 1.23e+04"


@pytest.mark.parametrize("text", ["", "1 2 3", "1 2 3 4 5", "1 2 3 -4", "1 2 nan 4", "a b c d"])
def test_a_text_that_holds_no_costs_is_infeasible_and_says_what_does(text: str) -> None:
    with pytest.raises(Infeasible, match=r"low_rank\.costs must be four numbers of microseconds"):
        planned({"rank": 0.5, "where": "faster", "costs": text})


# --- where factors are used ---------------------------------------------------------------------------------


def planned(settings: Mapping[str, Value], case: str = "bert") -> dict[str, int]:
    ranks: dict[str, int] = registry.axis_named("low_rank").decide(subject(case).statistics, settings)["ranks"]
    return ranks


@pytest.mark.parametrize("case", ["bert", "llama"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_where_time_is_multiply_adds_faster_is_smaller(case: str, share: float) -> None:
    for allocation in ("budget", "uniform"):
        settings: dict[str, Value] = {"rank": share, "allocation": allocation}
        smaller = planned(settings, case)
        assert smaller
        assert planned({**settings, "where": "faster", "costs": "0 0.0037 0 0"}, case) == smaller


@pytest.mark.parametrize("case", ["bert", "llama"])
def test_where_a_call_costs_more_than_any_matrix_nothing_is_factored(case: str) -> None:
    original, settings = subject(case), {"rank": 0.3, "where": "faster", "costs": "1e9 0.001 0 0"}
    assert planned(settings, case) == {}
    model, _ = built(original, Step("low_rank", settings))
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in original.model.state_dict().items()
    }


def test_the_dearer_a_call_the_fewer_matrices_are_factored() -> None:
    """And what is left of the plan keeps its ranks."""
    plans = [planned({"rank": 0.5, "where": "faster", "costs": f"{call} 0.001 0 0"}) for call in (0, 0.1, 0.3, 1, 10)]
    for more, less in itertools.pairwise(plans):
        assert less.items() <= more.items()
    assert plans[0] and not plans[-1]


@pytest.mark.parametrize("costs", PLANTED, ids=Costs.text)
def test_factors_pay_where_the_sum_of_their_times_is_less(costs: Costs) -> None:
    for inputs, outputs in SIZES:
        for rank in (1, 8, int(break_even(outputs, inputs))):
            saved = costs.of(inputs, outputs) - costs.of(inputs, rank) - costs.of(rank, outputs)
            assert costs.factors_are_faster((outputs, inputs), rank) == (saved > 0)


# --- recipes ------------------------------------------------------------------------------------------------


def recipe(*steps: Step) -> Recipe:
    return Recipe("1" * 16, "classification", "0" * 16, steps, {}, Step("eager"))


def test_a_recipe_without_the_knob_is_what_it_was_before_there_was_one() -> None:
    steps = build.steps_of({"low_rank.rank": 0.5, "low_rank.where": "smaller"}, subject().statistics.shape)
    assert steps == (Step("low_rank", {"rank": 0.5}),)
    # Golden: of a recipe that was never given the knob, its model named by a digest.
    assert recipe(*steps).digest == "9b98dc24d980b170"
    assert planned({"rank": 0.5}) == planned({"rank": 0.5, "where": "smaller", "costs": "1e9 1 1 1"})


def test_the_costs_are_part_of_what_identifies_the_weights() -> None:
    here, there = (Step("low_rank", {"rank": 0.5, "where": "faster", "costs": c}) for c in ("1 1 0 0", "2 1 0 0"))
    assert recipe(here).weights_digest != recipe(there).weights_digest


def test_a_recipe_with_costs_makes_the_same_plan_after_json_on_any_machine() -> None:
    candidate = recipe(Step("low_rank", {"rank": 0.5, "where": "faster", "costs": "0.1 0.001 0 0"}))
    again = Recipe.from_json(json.loads(canonical(candidate.to_json())))
    assert again == candidate and again.digest == candidate.digest
    statistics = subject().statistics
    assert build.decide(again.steps, statistics) == build.decide(candidate.steps, statistics)
