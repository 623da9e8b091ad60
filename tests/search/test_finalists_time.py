"""The time that is kept for the finalists of a run with a time limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from objectives.campaign import CampaignPlan
from search.config.schema import BudgetConfig, DataConfig, ModelConfig, RunConfig
from search.deliver.finishing_time import (
    EXPECTED,
    OPENING_S,
    campaign_seconds,
    export_seconds,
    fitting,
    held_out_seconds,
    least_seconds,
    opening_seconds,
    plans_within,
    seconds,
    timing_seconds,
)
from search.front.outcome import LATENCY

from . import factory

CONFIG = RunConfig(ModelConfig("m"), "classification", DataConfig("t"))
PLAN = CampaignPlan.lasting(2.4)
MAIN = {"": PLAN}


def test_slow_calls_and_a_slow_held_out_split_have_more_time() -> None:
    quick = seconds(CONFIG, MAIN, {"": 0.01}, 0.0)
    assert seconds(CONFIG, MAIN, {"": 2.5}, 0.0) > quick + PLAN.sets * PLAN.rounds * 2.5
    assert seconds(CONFIG, MAIN, {"": 0.01}, 30.0) == pytest.approx(quick + EXPECTED * 30.0)


def test_no_more_than_a_third_of_the_limit_is_kept() -> None:
    limited = replace(CONFIG, budget=BudgetConfig(timeout=60.0))
    assert seconds(limited, MAIN, {"": 2.5}, 30.0) == 20.0
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
    main, slow = seconds(CONFIG, MAIN, {"": 0.01}, 30.0), seconds(CONFIG, MAIN, {"": 2.5}, 30.0)
    both = seconds(CONFIG, {**MAIN, "b32": PLAN}, {"": 0.01, "b32": 2.5}, 30.0)
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
    both = {**MAIN, "b32": PLAN}
    assert fitting(MAIN, ready, sum(main_s) + 1e-6) == 3
    assert fitting(both, ready, sum(main_s) + sum(large_s) + 1e-6) == 3
    assert fitting(both, ready, 2 * sum(main_s)) == 0
    assert fitting(both, ready, sum(main_s[:2]) + sum(large_s[:2]) + 1.0) == 2


def test_an_export_that_takes_more_than_a_third_of_the_limit_has_its_time_up_to_half_of_it() -> None:
    limited = replace(CONFIG, budget=BudgetConfig(timeout=60.0))
    assert seconds(limited, MAIN, {"": 0.01}, 0.0, export_s=25.0) == 25.0
    assert seconds(limited, MAIN, {"": 0.01}, 0.0, export_s=80.0) == 30.0


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
    left_s = timing_seconds({"": replace(PLAN, attempts=1)}, [quick]) + 1.0
    assert fitting(MAIN, [quick], left_s) == 1
    assert fitting(MAIN, [slow], left_s) == 0


def test_disturbed_sets_are_timed_again_only_where_there_is_time_for_it() -> None:
    ready = factory.front().members
    both_s = timing_seconds(MAIN, ready)
    assert plans_within(MAIN, ready, both_s + 1) == MAIN
    assert plans_within(MAIN, ready, both_s - 1) == {"": replace(PLAN, attempts=1)}


def test_blocks_that_are_timed_on_a_gpu_take_their_time_too() -> None:
    assert PLAN.model_s(0.01, "cuda") > PLAN.model_s(0.01)
    slow_s = PLAN.sets * PLAN.rounds * 2 * 2.5
    assert PLAN.model_s(2.5, "cuda") == pytest.approx(PLAN.model_s(2.5) + slow_s)
    [one] = factory.front().members[:1]
    call = one.measurements[LATENCY]
    there = replace(one, measurements={**one.measurements, LATENCY: replace(call, conditions={"device": "cuda"})})
    assert campaign_seconds(MAIN, there) > campaign_seconds(MAIN, one)


def test_a_workload_s_own_cycle_counts_in_its_campaign() -> None:
    """Blocks of rows of several lengths take each of the sixteen batches; those of one length need a single call."""
    [one] = factory.front().members[:1]
    marked = f"{LATENCY}/ldata"
    timed = replace(one, measurements={**one.measurements, marked: factory.measurement(marked, 500.0, unit="ms")})
    short, whole = ({**MAIN, "ldata": replace(PLAN, minimum=calls)} for calls in (1, 16))
    longer_s = campaign_seconds(whole, timed) - campaign_seconds(short, timed)
    assert longer_s == pytest.approx(PLAN.sets * PLAN.rounds * 15 * 0.5)
