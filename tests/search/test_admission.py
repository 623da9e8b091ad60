"""Which requests are taken: as many as are answered in time, and hardly any that are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from search.serve import admission
from search.serve.admission import MISSES, MOST, AdmissionMargin
from search.serve.batching import Batcher, Limits, limits_for
from search.serve.bucket import Request
from search.serve.controller import Controller
from search.serve.policy import BacklogFit
from search.serve.variants import Variant
from tests.worlds.arrivals import Arrivals
from tests.worlds.serving import Machine, Result, simulate

SLO_S = 0.1
#: Calls of 5 and 20 ms on one row; larger batches gain nothing.
FRONT = tuple(
    Variant(number, quality, 1.0 - quality, ((1, seconds), (8, 8 * seconds)), 32, 1.3)
    for number, quality, seconds in ((1, 0.7, 0.005), (2, 0.8, 0.02))
)


def overloaded(stalls: float) -> Result:
    """Five times what the fastest variant serves; `stalls`: share of the calls that take three times as long."""
    machine = Machine(seed=1, speed=(1.0, 1.0), variant_sd=0.0, stall=(stalls, 3.0))
    times = np.cumsum(np.random.default_rng(0).exponential(0.001, 20_000))
    arrivals = Arrivals(times, np.full(len(times), 32))
    return simulate(arrivals, FRONT, BacklogFit(), Limits(slo_s=SLO_S), machine)


def in_time(result: Result) -> float:
    """Share of the taken requests."""
    return result.in_time / (result.offered - result.refused)


@pytest.mark.parametrize("stalls", [0.0, 0.05, 0.15])
def test_of_the_taken_99_percent_are_in_time_however_much_calls_vary(stalls: float) -> None:
    result = overloaded(stalls)
    assert in_time(result) >= 0.98
    # No more are refused than must be: the machine is hardly ever idle.
    assert result.in_time * 0.005 * (1 + 2 * stalls) >= 0.93 * 20.0


def test_without_learning_the_margin_does_not_suffice_where_calls_vary_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "RATE", 0.0)
    assert in_time(overloaded(0.15)) < 0.98


def test_the_margin_follows_the_share_of_misses_within_bounds() -> None:
    margin = AdmissionMargin()
    for _ in range(1000):
        for missed in [True, *[False] * round(1 / MISSES - 1)]:
            margin.learn(missed)
    assert margin.factor == pytest.approx(1.0, abs=0.01)
    for missed, end in ((False, 0.0), (True, MOST)):
        for _ in range(10_000):
            margin.learn(missed)
        assert margin.factor == end
    assert margin.needed_s(1.0, 0.5) == 1.0 + MOST * 0.5


def test_an_idle_service_takes_what_it_expects_to_answer_in_time() -> None:
    """Its 99th percentile is beyond the deadline, but there is no capacity to be over."""
    varying = tuple(replace(variant, tail=5.0) for variant in FRONT)
    queue = Batcher(Controller(varying, BacklogFit()), Limits(slo_s=SLO_S))
    assert queue.offer(Request(32, 0.0, 0.01), 0.0) is None
    refusal = queue.offer(Request(32, 0.0, 0.0141), 0.0)  # two calls of 5 ms, which vary
    assert refusal is not None and refusal.reason == "over capacity"
    assert queue.offer(Request(32, 0.0, 1.0), 0.0) is None


def test_requests_with_time_to_spare_teach_nothing() -> None:
    queue = Batcher(Controller(FRONT, BacklogFit()), Limits(slo_s=SLO_S))
    for number in range(100):
        assert queue.offer(Request(32, number, number + SLO_S), number) is None
        batch = queue.next_batch(number)
        assert batch is not None
        queue.finish(batch, number + 2 * SLO_S, length=0)  # late, by a stall that says nothing of the variant
    assert queue.margin == 1.0


def test_rows_of_their_own_are_expected_to_take_as_long_as_they_are() -> None:
    """With a row of 130 tokens taken for one of 256 half of the queue is refused."""
    limits = limits_for(FRONT, Limits(slo_s=1.0))
    for length in range(16, 16_000, 7):
        assert length <= limits.padded(length) <= 1.125 * length
    counts = []
    for given in (limits, Limits(slo_s=1.0)):
        queue = Batcher(Controller(FRONT, BacklogFit()), given)
        counts.append(sum(queue.offer(Request(130, 0.0, 1.0), 0.0) is None for _ in range(100)))
    assert counts[0] > 1.5 * counts[1] > 0


def test_rows_that_gain_by_company_are_grouped() -> None:
    gaining = (replace(FRONT[0], points=((1, 0.005), (8, 0.01))), FRONT[1])
    assert limits_for(gaining, Limits()) == Limits()


def question_taken(queue: Batcher, now_s: float, within_s: float) -> bool:
    """Whether the three rows of a question are taken, as of three passages; where one is not the others leave."""
    rows = [Request(32, now_s, now_s + within_s) for _ in range(3)]
    taken = [queue.offer(row, now_s) is None for row in rows]
    for row, was in zip(rows, taken, strict=True):
        if was and not all(taken):
            queue.withdraw(row)
    return all(taken)


def test_a_margin_that_lets_none_in_that_could_teach_falls() -> None:
    slo_s = 0.02
    queue = Batcher(Controller(FRONT, BacklogFit()), Limits(slo_s=slo_s))
    assert question_taken(queue, 0.0, slo_s)
    queue.expired(1.0)
    stall = 1.0
    while queue.margin < MOST:  # two are tight
        assert [queue.offer(Request(32, stall, stall + slo_s), stall) for _ in range(2)] == [None, None]
        queue.expired(stall + 1.0)
        stall += 1.0
    refused = next(number for number in range(100) if question_taken(queue, stall + number, slo_s))
    assert 1 < refused <= 20
    assert 0.5 < queue.margin < MOST


def test_times_that_let_none_in_that_could_correct_them_are_forgotten() -> None:
    """A machine that was slow for a while is expected to be so until a call shows that it is not."""
    queue = Batcher(Controller(FRONT, BacklogFit()), Limits(slo_s=SLO_S))
    times = queue.controller.times
    while times.expected_s(FRONT[0], 1, 32) <= SLO_S:
        times.observe(FRONT[0], 1, 32, 1.0)
    refused = next(n for n in range(100) if queue.offer(Request(32, n, n + SLO_S), n) is None)
    assert 1 < refused <= 10


def test_times_are_not_forgotten_while_they_are_corrected() -> None:
    queue = Batcher(Controller(FRONT, BacklogFit()), Limits(slo_s=SLO_S))
    times = queue.controller.times
    for _ in range(10):
        times.observe(FRONT[0], 1, 32, 0.01)
    expected_s = times.expected_s(FRONT[0], 1, 32)
    for now in range(100):
        assert queue.offer(Request(32, now, now + 0.001), now) is not None  # too little time for any call
        assert queue.offer(Request(32, now, now + SLO_S), now) is None
        batch = queue.next_batch(now)
        assert batch is not None
        queue.finish(batch, now + 0.01, length=0)
    assert times.expected_s(FRONT[0], 1, 32) == expected_s


def test_corrections_that_shorten_times_are_kept() -> None:
    times = Controller(FRONT, BacklogFit()).times
    times.observe(FRONT[0], 1, 32, 0.001)
    expected_s = times.expected_s(FRONT[0], 1, 32)
    times.fade()
    assert times.expected_s(FRONT[0], 1, 32) == expected_s < 0.005
