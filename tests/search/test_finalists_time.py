"""The time that is kept for the finalists of a run with a time limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from objectives.campaign import CampaignPlan
from search.config.schema import BudgetConfig, DataConfig, ModelConfig, RunConfig
from search.deliver.finishing_time import (
    EXPECTED,
    OPENING_S,
    export_seconds,
    fitting,
    held_out_seconds,
    least_seconds,
    opening_seconds,
    plan_within,
    seconds,
    timing_seconds,
)
from search.front.outcome import LATENCY

from . import factory

CONFIG = RunConfig(ModelConfig("m"), "classification", DataConfig("t"))
PLAN = CampaignPlan.lasting(2.4)


def test_slow_calls_and_a_slow_held_out_split_have_more_time() -> None:
    quick = seconds(CONFIG, PLAN, [0.01], 0.0)
    assert seconds(CONFIG, PLAN, [2.5], 0.0) > quick + PLAN.sets * PLAN.rounds * 2.5
    assert seconds(CONFIG, PLAN, [0.01], 30.0) == pytest.approx(quick + EXPECTED * 30.0)


def test_no_more_than_a_third_of_the_limit_is_kept() -> None:
    limited = replace(CONFIG, budget=BudgetConfig(timeout=60.0))
    assert seconds(limited, PLAN, [2.5], 30.0) == 20.0
    assert least_seconds(limited) == 20.0


def test_predictions_of_the_held_out_split_take_what_those_of_validation_took() -> None:
    first = factory.front().outcomes[0]
    timed = [replace(first, seconds={"quality": s}) for s in (40.0, 20.0)]
    assert held_out_seconds([*timed, replace(first, seconds={})], share=1.5) == pytest.approx(45.0)
    assert held_out_seconds([], share=1.5) == 0.0


def test_a_block_of_the_plan_has_its_calls_however_slow_they_are() -> None:
    assert replace(PLAN, minimum=16).model_s(0.1) == pytest.approx(
        PLAN.sets * (PLAN.rounds * (1.6 + 0.1) + 0.4), rel=0.1
    )


def test_every_workload_has_a_campaign_of_its_own_and_the_time_for_it() -> None:
    main, slow = seconds(CONFIG, PLAN, [0.01], 30.0), seconds(CONFIG, PLAN, [2.5], 30.0)
    both = seconds(CONFIG, PLAN, [0.01, 2.5], 30.0)
    assert both > main + PLAN.sets * PLAN.rounds * 2.5 and both > slow + PLAN.model_s(0.01)


def test_the_campaign_has_the_models_that_there_is_time_for_under_every_workload() -> None:
    """Calls with a larger batch take longer than those of the main workload."""
    marked = f"{LATENCY}/b32"
    ready = [
        replace(one, measurements={**one.measurements, marked: factory.measurement(marked, 2500.0, unit="ms")})
        for one in factory.front().outcomes[:3]
    ]
    main_s, large_s = (
        [PLAN.model_s(one.value(name) / 1e3) + PLAN.sets * OPENING_S for one in ready] for name in (LATENCY, marked)
    )
    assert fitting(PLAN, ("",), ready, sum(main_s) + 1e-6) == 3
    assert fitting(PLAN, ("", "b32"), ready, sum(main_s) + sum(large_s) + 1e-6) == 3
    assert fitting(PLAN, ("", "b32"), ready, 2 * sum(main_s)) == 0
    assert fitting(PLAN, ("", "b32"), ready, sum(main_s[:2]) + sum(large_s[:2]) + 1.0) == 2


def test_an_export_that_takes_more_than_a_third_of_the_limit_has_its_time_up_to_half_of_it() -> None:
    limited = replace(CONFIG, budget=BudgetConfig(timeout=60.0))
    assert seconds(limited, PLAN, [0.01], 0.0, export_s=25.0) == 25.0
    assert seconds(limited, PLAN, [0.01], 0.0, export_s=80.0) == 30.0


def test_a_front_of_many_or_large_models_takes_longer_to_export() -> None:
    members = factory.front().members
    each_s = [export_seconds([one]) - export_seconds([]) for one in members]
    assert export_seconds(members) == pytest.approx(export_seconds([]) + sum(each_s)) and min(each_s) > 0
    size = factory.measurement("size_mb", 6000.0, unit="MB")
    large = replace(members[0], measurements={**members[0].measurements, "size_mb": size})
    assert export_seconds([large]) > export_seconds(members[:1]) + 60


def test_a_model_that_loads_slowly_takes_longer_in_each_set_and_in_the_export() -> None:
    """What generates is opened twice in the export: what scores texts, and what generates."""
    [quick] = factory.front().members[:1]
    load, first = factory.measurement("prepare_s", 7.0), factory.measurement("first_call_ms", 3000.0)
    loading = {one.objective: one for one in (load, first)}
    slow = replace(quick, measurements={**quick.measurements, **loading})
    assert opening_seconds(slow) == pytest.approx(opening_seconds(quick) + 10.0)
    assert export_seconds([slow]) == pytest.approx(export_seconds([quick]) + 10.0)
    generating = [replace(one, recipe=replace(one.recipe, task="causal-lm")) for one in (quick, slow)]
    assert export_seconds(generating[1:]) == pytest.approx(export_seconds(generating[:1]) + 20.0)
    left_s = timing_seconds(replace(PLAN, attempts=1), [quick]) + 1.0
    assert fitting(PLAN, ("",), [quick], left_s) == 1
    assert fitting(PLAN, ("",), [slow], left_s) == 0


def test_disturbed_sets_are_timed_again_only_where_there_is_time_for_it() -> None:
    ready = factory.front().members
    both_s = timing_seconds(PLAN, ready)
    assert plan_within(PLAN, ("",), ready, both_s + 1) == PLAN
    assert plan_within(PLAN, ("",), ready, both_s - 1) == replace(PLAN, attempts=1)
