"""The time that is kept for the finalists of a run with a time limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from objectives.campaign import CampaignPlan
from search.config.schema import BudgetConfig, DataConfig, ModelConfig, RunConfig
from search.deliver.finalists import EXPECTED, held_out_seconds, seconds

from . import factory

CONFIG = RunConfig(ModelConfig("m"), "classification", DataConfig("t"))
PLAN = CampaignPlan.lasting(2.4)


def test_slow_calls_and_a_slow_held_out_split_have_more_time() -> None:
    quick = seconds(CONFIG, PLAN, 0.01, 0.0)
    assert seconds(CONFIG, PLAN, 2.5, 0.0) > quick + PLAN.sets * PLAN.rounds * 2.5
    assert seconds(CONFIG, PLAN, 0.01, 30.0) == pytest.approx(quick + EXPECTED * 30.0)


def test_no_more_than_a_third_of_the_limit_is_kept() -> None:
    limited = replace(CONFIG, budget=BudgetConfig(timeout=60.0))
    assert seconds(limited, PLAN, 2.5, 30.0) == 20.0


def test_predictions_of_the_held_out_split_take_what_those_of_validation_took() -> None:
    first = factory.front().outcomes[0]
    timed = [replace(first, seconds={"quality": s}) for s in (40.0, 20.0)]
    assert held_out_seconds([*timed, replace(first, seconds={})], share=1.5) == pytest.approx(45.0)
    assert held_out_seconds([], share=1.5) == 0.0


def test_a_block_of_the_plan_has_its_calls_however_slow_they_are() -> None:
    assert replace(PLAN, minimum=16).model_s(0.1) == pytest.approx(
        PLAN.sets * (PLAN.rounds * (1.6 + 0.1) + 0.4), rel=0.1
    )
