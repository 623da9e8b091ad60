"""Which time the speedups of a study are of, and the ratio of two times that were not timed as a pair."""

from __future__ import annotations

from collections.abc import Iterable

from objectives.estimate import Estimate, ratio
from objectives.generation_times import TOKENS_PER_S, TPOT, TPOT_P90, TPOT_P99, TTFT
from objectives.latency import DEVICE_P50, P90, P99, THROUGHPUT, under
from objectives.reference_speed import own_estimate
from objectives.workload import marked
from search.front.outcome import CALL_TIMES, LATENCY, SPEEDUP, Outcome

#: Objectives whose ratio between two models of one campaign is the ratio of their times, or its inverse.
AS_TIMES = (*CALL_TIMES, THROUGHPUT.name, SPEEDUP)
#: Times that are compared by their clock times: percentiles, those on the device, and those of the tokens of a call.
BY_CLOCK = tuple(objective.name for objective in (P90, P99, DEVICE_P50, TTFT, TPOT, TPOT_P90, TPOT_P99))


def time_of(objective: str) -> str:
    """The name of the time that an objective goes by: `LATENCY` under its workload for all of whole calls.

    "" for an objective that has nothing to do with time.
    """
    plain, mark = marked(objective)
    if plain in (*AS_TIMES, TOKENS_PER_S.name):
        return under(LATENCY, mark)
    return objective if plain in BY_CLOCK else ""


def optimised_time(objectives: Iterable[str]) -> str:
    """The name of the time that the first of the objectives that has one goes by; `LATENCY` where none has."""
    return next(filter(None, map(time_of, objectives)), LATENCY)


def clock_ratio(a: Outcome, b: Outcome, time: str) -> Estimate | None:
    """The `time` of `a` over that of `b`, from the time of each; None where one was not measured.

    Both are scaled to the same reference, so its error does not count.
    """
    if time not in a.measurements or time not in b.measurements:
        return None
    return ratio(own_estimate(a.measurements[time]), own_estimate(b.measurements[time]))
