"""The time that is kept for the finalists of a run with a time limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from objectives.campaign import CampaignPlan
from search.config.schema import BudgetConfig, DataConfig, ModelConfig, RunConfig
from search.deliver.finalists import EXPECTED, OPENING_S, fitting, held_out_seconds, seconds
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
