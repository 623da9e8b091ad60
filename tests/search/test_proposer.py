"""Trials from their beginning to their end, with rungs between, under every sampler."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from world import ECONOMY, World, worlds

from search.front.outcome import Outcome
from search.propose.ladder import Economy
from search.propose.samplers import SAMPLERS
from search.propose.study import GUESSED, OUTCOME, RUNGS
from search.propose.telling import REJECTED

TRIALS = 70
STRICT = Economy(shares=ECONOMY.shares, halving=3, reject=True, audit=0.0)


@pytest.fixture(scope="module")
def world() -> World:
    return worlds().synthetic()


def outcomes(trace: Any) -> list[dict[str, Any]]:
    return [t.user_attrs[OUTCOME] for t in trace.study.trials if OUTCOME in t.user_attrs]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_trial_comes_to_an_end_and_none_is_too_many(world: World, sampler: str) -> None:
    trace = worlds().search(world, sampler, 0, 10**6, STRICT, trials=TRIALS)
    assert len(outcomes(trace)) == TRIALS
    assert not [t for t in trace.study.trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    assert {o["status"] for o in outcomes(trace)} <= {"complete", "rejected"}
    assert len({o["digest"] for o in outcomes(trace)}) == TRIALS, "nothing is measured twice"


@pytest.mark.parametrize("sampler", ["known-latency", "random"])
def test_an_equal_search_is_gone_through_again_without_a_training_or_a_look(world: World, sampler: str) -> None:
    first = worlds().search(world, sampler, 0, 10**6, STRICT, trials=2 * TRIALS)
    found = [Outcome.from_json(o) for o in outcomes(first)]
    assert {o.status for o in found} == {"complete", "rejected"}
    second = worlds().search(world, sampler, 1, 10**6, STRICT, trials=2 * TRIALS, before=found)
    assert {(o["digest"], o["status"]) for o in outcomes(second)} == {(o.recipe.digest, o.status) for o in found}
    assert second.looks == []
    more = worlds().search(world, sampler, 1, 10**6, STRICT, trials=2 * TRIALS + 20, before=found)
    assert len(outcomes(more)) == 2 * TRIALS + 20, "and then it goes on"


def test_nobody_is_looked_at_twice_on_a_rung_and_rungs_come_in_order(world: World) -> None:
    trace = worlds().search(world, "known-latency", 1, 25, STRICT)
    assert max(Counter(trace.looks).values()) == 1
    for digest in {digest for digest, _ in trace.looks}:
        rungs = [rung for seen, rung in trace.looks if seen == digest]
        assert rungs == sorted(rungs)


def test_who_is_dismissed_is_told_as_what_it_is(world: World) -> None:
    trace = worlds().search(world, "known-latency", 0, 10**6, STRICT, trials=TRIALS * 2)
    rejected = [t for t in trace.study.trials if t.user_attrs.get(OUTCOME, {}).get("status") == "rejected"]
    assert rejected
    for trial in rejected:
        assert trial.state == TrialState.COMPLETE and trial.constraints[REJECTED] > 0
        assert "latency_p50_ms" in trial.user_attrs[GUESSED]
        rungs = trial.user_attrs.get(RUNGS)
        if rungs:
            assert trial.values[0] == pytest.approx(rungs[max(rungs)]), "what the highest rung saw"
    measured = [t for t in trace.study.trials if t.user_attrs.get(OUTCOME, {}).get("status") == "complete" and t.values]
    assert all(t.constraints[REJECTED] == 0 for t in measured)
    assert not {t.number for t in trace.study.best_trials} & {t.number for t in rejected}


def test_a_killed_search_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    first = worlds().search(world, "random", 0, 10**6, STRICT, trials=2 * TRIALS, folder=tmp_path, looks=6)
    waiting = [t for t in first.study.trials if t.state == TrialState.RUNNING]
    assert waiting, "it was killed while candidates waited"
    again = worlds().search(world, "random", 0, 10**6, STRICT, trials=2 * TRIALS, folder=tmp_path)
    assert not set(first.looks) & set(again.looks), "no look is repeated"
    assert len(outcomes(again)) == 2 * TRIALS
    numbers = {t.number for t in again.study.trials if OUTCOME in t.user_attrs}
    assert {t.number for t in waiting if RUNGS in t.user_attrs} <= numbers, "who waited keeps the same trial"


def test_it_stops_when_too_little_is_expected(world: World) -> None:
    endless = worlds().search(world, "known-latency", 0, 40, Economy())
    modest = worlds().search(world, "known-latency", 0, 40, Economy(least_gain=0.02))
    assert 3 < modest.weights < endless.weights == 40
    assert modest.hypervolume[-1] > 0.9 * endless.hypervolume[-1]


def test_known_latency_beats_chance(world: World) -> None:
    """Regret at 25 sets of weights, three seeds each."""
    regret = {
        sampler: sum(1 - worlds().search(world, sampler, s, 25).hypervolume[-1] / world.exhaustive for s in range(3))
        for sampler in ("known-latency", "random")
    }
    assert regret["known-latency"] < 0.6 * regret["random"]
