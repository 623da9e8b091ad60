"""Trials from their beginning to their end, under every sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.front.outcome import Outcome
from search.propose.samplers import SAMPLERS
from search.propose.study import OUTCOME
from tests import worlds
from tests.worlds import World

TRIALS = 70


@pytest.fixture(scope="module")
def world() -> World:
    return worlds.synthetic()


def outcomes(trace: Any) -> list[dict[str, Any]]:
    return [t.user_attrs[OUTCOME] for t in trace.study.trials if OUTCOME in t.user_attrs]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_trial_comes_to_an_end_and_none_is_too_many(world: World, sampler: str) -> None:
    trace = worlds.search(world, sampler, 0, 10**6, trials=TRIALS)
    assert len(outcomes(trace)) == TRIALS
    assert not [t for t in trace.study.trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    assert {o["status"] for o in outcomes(trace)} == {"complete"}
    assert len({o["digest"] for o in outcomes(trace)}) == TRIALS, "nothing is measured twice"


@pytest.mark.parametrize("sampler", ["known-latency", "random"])
def test_an_equal_search_is_gone_through_again_without_a_training(world: World, sampler: str) -> None:
    first = worlds.search(world, sampler, 0, 10**6, trials=2 * TRIALS)
    history = [Outcome.from_json(o) for o in outcomes(first)]
    second = worlds.search(world, sampler, 1, 10**6, trials=2 * TRIALS, before=history)
    assert {o["digest"] for o in outcomes(second)} == {o.recipe.digest for o in history}
    assert first.paid and not second.paid
    more = worlds.search(world, sampler, 1, 10**6, trials=2 * TRIALS + 20, before=history)
    assert len(outcomes(more)) == 2 * TRIALS + 20 and more.paid, "and then it goes on"


def test_a_killed_search_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    first = worlds.search(world, "random", 0, 10**6, trials=2 * TRIALS, folder=tmp_path, kill_after=6)
    (running,) = [t for t in first.study.trials if t.state == TrialState.RUNNING]
    again = worlds.search(world, "random", 0, 10**6, trials=2 * TRIALS, folder=tmp_path)
    assert first.paid and not first.paid & again.paid, "no training is repeated"
    assert len(outcomes(again)) == 2 * TRIALS
    assert OUTCOME in again.study.trials[running.number].user_attrs, "what was running keeps the same trial"


def test_it_stops_when_too_little_is_expected(world: World) -> None:
    endless = worlds.search(world, "known-latency", 0, 40)
    modest = worlds.search(world, "known-latency", 0, 40, least_gain=0.02)
    assert 3 < modest.weights < endless.weights == 40
    assert modest.hypervolume[-1] > 0.9 * endless.hypervolume[-1]


def test_known_latency_beats_chance(world: World) -> None:
    """Regret at 25 sets of weights, three seeds each."""
    regret = {
        sampler: sum(1 - worlds.search(world, sampler, s, 25).hypervolume[-1] / world.exhaustive for s in range(3))
        for sampler in ("known-latency", "random")
    }
    assert regret["known-latency"] < 0.6 * regret["random"]
