"""Candidates off the front that the final campaign times too, because the loop does not tell them from its members."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.deliver.finalists import finalists_of
from search.front.front import Front
from search.front.outcome import LATENCY, SPEEDUP, Outcome, Target

from . import factory


def candidate(number: int, perplexity: float, token_ms: float, call_ms: float, objective: str) -> Outcome:
    """Its times of tokens are known within 5 %, those of whole calls within 0.1 %."""
    speedup = 100 / call_ms
    figures = (
        factory.measurement("perplexity", perplexity),
        factory.measurement(LATENCY, call_ms, 0.05 * call_ms, "ms"),
        factory.measurement("generate_ms", call_ms, 0.05 * call_ms, "ms"),
        factory.measurement(objective, token_ms, 0.05 * token_ms, "ms"),
        factory.measurement(SPEEDUP, speedup, 0.001 * speedup, "x", "higher"),
    )
    return factory.outcome(number, measurements={figure.objective: figure for figure in figures})


def numbers(front: Front) -> list[int]:
    return [outcome.number for outcome in finalists_of(front)]


@pytest.mark.parametrize("objective", ["tpot_ms", "ttft_ms"])
def test_a_study_of_the_time_of_a_token_chooses_by_it(objective: str) -> None:
    """The second's whole calls are far off and the third's are not, which counts for nothing."""
    best = candidate(1, 20.0, 10.0, 50.0, objective)
    near, far = candidate(2, 20.5, 10.3, 90.0, objective), candidate(3, 20.5, 13.0, 50.0, objective)
    targets = (Target("perplexity", "lower"), Target(objective, "lower"))
    assert numbers(Front(targets, (best, near, far))) == [1, 2]


def test_the_error_of_the_reference_brings_no_candidate_nearer() -> None:
    """By the clock its time is known within 1 %, and it is 3 % slower than the member's."""
    best, other = candidate(1, 20.0, 10.0, 50.0, "tpot_ms"), candidate(2, 20.5, 10.3, 50.0, "tpot_ms")
    scaled = other.measurements["tpot_ms"]
    by_clock = {"as_timed": 20.6, "as_timed_interval": [20.4, 20.8]}
    known = replace(scaled, conditions={**scaled.conditions, **by_clock})
    other = replace(other, measurements={**other.measurements, "tpot_ms": known})
    targets = (Target("perplexity", "lower"), Target("tpot_ms", "lower"))
    assert numbers(Front(targets, (best, other))) == [1]


@pytest.mark.parametrize("objective", [LATENCY, "generate_ms"])
def test_a_study_of_whole_calls_chooses_by_their_ratio_to_the_baseline(objective: str) -> None:
    best = candidate(1, 20.0, 10.0, 50.0, "tpot_ms")
    near, far = candidate(2, 20.5, 13.0, 50.03, "tpot_ms"), candidate(3, 20.5, 10.0, 51.0, "tpot_ms")
    targets = (Target("perplexity", "lower"), Target(objective, "lower"))
    assert numbers(Front(targets, (best, near, far))) == [1, 2]


def test_a_study_without_times_has_its_members_alone() -> None:
    best, other = candidate(1, 20.0, 10.0, 50.0, "tpot_ms"), candidate(2, 20.5, 10.0, 50.0, "tpot_ms")
    assert numbers(Front((Target("perplexity", "lower"),), (best, other))) == [1]
