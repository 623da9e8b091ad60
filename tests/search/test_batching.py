"""The queue: bounded, in order, never a late row computed; the same in real time."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from search.serve.batching import Batcher, Limits, RequestBatch
from search.serve.bucket import Request
from search.serve.controller import Controller
from search.serve.dispatcher import Answered, Dispatcher, ExpiredError, FailedError, RefusedError, is_finite
from search.serve.policy import BacklogFit
from search.serve.variants import Variant

VARIANTS = tuple(
    Variant(number, 1 - loss / 100, loss, ((1, ms / 1e3),), 32, 1.5) for number, ms, loss in ((7, 0.5, 8), (9, 4, 0))
)
LIMITS = Limits(slo_s=0.05, max_batch=8, max_queue=40, lengths=(16, 32, 64))


def batcher(limits: Limits = LIMITS) -> Batcher:
    return Batcher(Controller(VARIANTS, BacklogFit()), limits)


def row(now: float, length: int = 20, within_s: float = 0.05, payload: Any = None) -> Request:
    return Request(length, now, now + within_s, payload)


@pytest.mark.parametrize("seed", range(5))
def test_laws_of_the_queue_hold_under_random_load(seed: int) -> None:
    """No late row is computed, the queue is bounded, what is due first goes first, every row has one fate."""
    random, queue, now = np.random.default_rng(seed), batcher(), 0.0
    fates: dict[int, str] = {}
    running, taken = list[tuple[float, RequestBatch]](), dict[int, Request]()
    for offered in range(3000):
        now += float(random.exponential(random.choice([0.0001, 0.002, 0.02])))
        for done, batch in [r for r in running if r[0] <= now]:
            running.remove((done, batch))
            failed = int(now) % 3 == 2  # a bad second now and then
            for given_up in queue.finish(batch, now, "broken" if failed else ""):
                fates[given_up.payload] = "failed"
            if not failed:
                fates |= {request.payload: "served" for request in batch.requests}
        request = row(now, int(random.integers(1, 100)), float(random.uniform(0.001, 0.1)), offered)
        if (refusal := queue.offer(request, now)) is not None:
            fates[request.payload] = "refused"
            assert refusal.retry_after_s > 0
        else:
            taken[offered] = request
        assert queue.waiting <= LIMITS.max_queue
        if not running and (begun := queue.next_batch(now)) is not None:
            assert len(begun.requests) <= LIMITS.max_batch
            assert all(request.deadline_s > now for request in begun.requests)
            assert {LIMITS.padded(request.length) for request in begun.requests} == {begun.length}
            expired = {request.payload for request in queue.expired(now)}
            fates |= dict.fromkeys(expired, "expired")
            due = [request.due_s for request in begun.requests]
            left = [r for n, r in taken.items() if n not in fates and r not in begun.requests]
            assert due == sorted(due)
            assert all(r.due_s >= due[-1] for r in left if LIMITS.padded(r.length) == begun.length)
            took = begun.variant.seconds(len(begun.requests), begun.length) * float(random.uniform(0.8, 2))
            running.append((now + took, begun))
        fates |= {request.payload: "expired" for request in queue.expired(now)}
        assert len(fates) + queue.waiting + sum(len(b.requests) for _, b in running) == offered + 1
    assert {"served", "refused", "expired", "failed"} <= set(fates.values())


def test_above_capacity_a_request_is_refused_at_once_with_a_time() -> None:
    queue = batcher(Limits(slo_s=0.05, max_batch=8, max_queue=1000))
    refusals = [queue.offer(row(0.0), 0.0) for _ in range(400)]
    taken = refusals.index(next(r for r in refusals if r is not None))
    assert all(r is None for r in refusals[:taken]) and all(r is not None for r in refusals[taken:])
    assert refusals[taken].reason == "over capacity" and 0 < refusals[taken].retry_after_s < 0.01  # type: ignore[union-attr]
    assert queue.drain_s(0.0) < 0.05


def test_a_full_queue_refuses() -> None:
    queue = batcher(Limits(slo_s=10.0, max_queue=3))
    assert [queue.offer(row(0.0, within_s=10), 0.0) is None for _ in range(5)] == [True] * 3 + [False] * 2


def test_rows_wait_for_company_only_where_company_comes() -> None:
    queue = batcher()
    queue.offer(row(0.0), 0.0)
    assert queue.next_batch(0.0) is not None  # the first in a long while goes alone
    queue = batcher()
    for i in range(1000):  # a thousand a second, who all leave again
        queue.offer(row(i / 1000, within_s=0.0001), i / 1000)
        queue.expired(i / 1000 + 0.0005)
    queue.offer(row(1.0), 1.0)
    assert queue.next_batch(1.0) is None and queue.wake_at(1.0) == pytest.approx(1.002)
    queue.offer(row(1.001), 1.001)
    batch = queue.next_batch(1.002)
    assert batch is not None and len(batch.requests) == 2


def test_rows_go_alone_where_batches_gain_nothing() -> None:
    flat = tuple(replace(v, points=((1, v.points[0][1]), (8, 8 * v.points[0][1]))) for v in VARIANTS)
    queue = Batcher(Controller(flat, BacklogFit()), LIMITS)
    for i in range(1000):  # a thousand a second, so that company would come
        queue.offer(row(i / 1000, within_s=0.0001), i / 1000)
        queue.expired(i / 1000 + 0.0005)
    for payload in range(3):
        queue.offer(row(1.0, payload=payload), 1.0)
    for payload in range(3):
        batch = queue.next_batch(1.0)
        assert batch is not None and [request.payload for request in batch.requests] == [payload]
        queue.finish(batch, 1.0 + flat[0].seconds(1, 32))


def test_a_row_that_nobody_waits_for_is_not_computed() -> None:
    queue = batcher()
    rows = [row(0.0, payload=i) for i in range(4)]
    assert [queue.offer(one, 0.0) for one in rows] == [None] * 4
    queue.withdraw(rows[1])
    batch = queue.next_batch(0.04)
    assert batch is not None and [request.payload for request in batch.requests] == [0, 2, 3]
    queue.withdraw(rows[2])  # runs; it is not tried again
    assert queue.finish(batch, 0.041, "broken") == () and queue.waiting == 2


def test_a_call_that_hangs_is_no_free_worker() -> None:
    queue = batcher()
    assert queue.offer(row(0.0), 0.0) is None and queue.next_batch(0.0) is not None
    assert queue.offer(row(0.005), 0.005) is None
    refusal = queue.offer(row(5.0), 5.0)
    assert refusal is not None and refusal.reason == "over capacity"


def test_a_completion_that_ends_early_says_nothing_of_a_whole_ones_time() -> None:
    queue = batcher()
    times = queue.controller.times
    before = times.expected_s(VARIANTS[1], 1, 64)
    for computed in (0, 64):
        queue.offer(row(0.0, 64), 0.0)
        batch = queue.next_batch(0.04)
        assert batch is not None
        took = 0.0001 if computed == 0 else batch.done_s - batch.started_s
        queue.finish(batch, 0.04 + took, length=computed)
    assert times.expected_s(VARIANTS[1], 1, 64) == pytest.approx(before, rel=0.01)


def test_a_failed_batch_is_answered_by_another_variant_in_its_order() -> None:
    queue = batcher()
    for i in range(3):
        queue.offer(row(0.0, payload=i), 0.0)
    first = queue.next_batch(0.0)
    assert first is not None and first.variant.number == 9
    queue.offer(row(0.001, payload=3), 0.001)
    assert queue.finish(first, 0.001, "worker died") == ()
    second = queue.next_batch(0.002)
    assert second is not None and second.variant.number == 7
    assert [request.payload for request in second.requests] == [0, 1, 2, 3]
    given_up = queue.finish(second, 0.003, "worker died")
    assert [request.payload for request in given_up] == [0, 1, 2]
    assert queue.next_batch(0.004) is None and queue.wake_at(0.004) == pytest.approx(0.051)  # both are out
    refusal = queue.offer(row(0.004), 0.004)
    assert refusal is not None and refusal.reason == "unavailable" and 0.9 < refusal.retry_after_s <= 1


def slow(number: int, rows: Sequence[Any]) -> list[Any]:
    time.sleep(0.002)
    return [(number, r) for r in rows]


def dispatcher(run: Any, limits: Limits | None = None) -> Dispatcher:
    return Dispatcher(batcher(limits or Limits(slo_s=1.0)), [run])


def test_answers_reach_their_requests_in_an_event_loop() -> None:
    async def ask() -> list[Answered]:
        asked = [asyncio.wrap_future(service.submit(i, 1 + i)) for i in range(60)]
        return list(await asyncio.gather(*asked))

    service = dispatcher(slow)
    answers = asyncio.run(ask())
    service.close()
    assert [a.answer for a in answers] == [(a.number, i) for i, a in enumerate(answers)]
    assert max(a.batch for a in answers) > 1 and all(a.computed_s >= 0.002 for a in answers)
    with pytest.raises(RefusedError, match="closing"):
        service.submit(0, 1)


def test_a_worker_calls_one_batch_at_a_time_and_close_drains() -> None:
    calls, at_once = threading.Semaphore(1), []

    def one(number: int, rows: Sequence[Any]) -> list[Any]:
        at_once.append(calls.acquire(blocking=False))
        time.sleep(0.001)
        calls.release()
        return list(rows)

    service = dispatcher(one)
    futures = [service.submit(i, 8) for i in range(50)]
    service.close()
    assert [f.result(0).answer for f in futures] == list(range(50)) and all(at_once)


def test_who_has_an_answer_sees_it_counted() -> None:
    service = dispatcher(lambda number, rows: list(rows))
    seen = []
    for i in range(200):
        service.submit(i, 8).result(5)
        seen.append(service.look(lambda queue: (queue.served, queue.running)))
    service.close()
    assert seen == [(i + 1, 0) for i in range(200)]


def test_a_row_that_is_late_when_its_batch_fails_after_closing_is_told() -> None:
    begun, hold = threading.Event(), threading.Event()

    def broken(number: int, rows: Sequence[Any]) -> list[Any]:
        begun.set()
        hold.wait(5.0)
        raise RuntimeError("no memory")

    service = dispatcher(broken)
    late = service.submit("row", 8, within_s=0.2)
    begun.wait(1.0)
    service.close(timeout_s=0.4)
    hold.set()
    with pytest.raises(ExpiredError):
        late.result(5)


def test_failures_and_late_rows_are_told() -> None:
    begun, hold = threading.Event(), threading.Event()

    def broken(number: int, rows: Sequence[Any]) -> list[Any]:
        begun.set()
        hold.wait(1.0)
        if rows[0] == "bad row":
            return [ValueError("bad row")]
        raise RuntimeError("no memory")

    service = dispatcher(broken)
    bad = service.submit("bad row", 8)
    begun.wait(1.0)
    late = service.submit("late", 8, within_s=0.05)
    with pytest.raises(ExpiredError):
        late.result(0.5)  # though the only worker is busy
    hold.set()
    with pytest.raises(ValueError, match="bad row"):
        bad.result(1)
    assert service.look(lambda b: b.controller.health) == {}
    with pytest.raises(FailedError, match="no memory"):
        service.submit("row", 8).result(1)
    with pytest.raises(RefusedError, match="unavailable"):
        service.submit("row", 8)
    service.close()


@pytest.mark.parametrize(
    ("answer", "finite"),
    [
        (1.0, True),
        (math.nan, False),
        (np.float32("inf"), False),
        (np.ones(3, dtype=np.float32), True),
        (np.array([1.0, math.nan]), False),
        ({"label": "a", "score": -math.inf}, False),
        ([{"label": "a", "score": 1.0}], True),
        ((1, "nan", None), True),
    ],
)
def test_the_numbers_of_an_answer_are_looked_at_wherever_they_are(answer: Any, finite: bool) -> None:
    assert is_finite(answer) == finite


def test_an_answer_that_is_not_finite_fails_alone_and_the_variant_where_it_gives_no_other() -> None:
    begun, hold = threading.Event(), threading.Event()

    def overflows(number: int, rows: Sequence[Any]) -> list[Any]:
        begun.set()
        hold.wait(5.0)
        return [{"label": "a", "score": float(row) if number == 9 else 0.5} for row in rows]

    service = dispatcher(overflows, Limits(slo_s=5.0))
    first = service.submit("1", 8)
    begun.wait(5.0)
    some = [service.submit(row, 8) for row in ("2", "nan", "3")]  # one batch, since the worker is busy
    hold.set()
    assert [one.result(5).answer["score"] for one in (first, some[0], some[2])] == [1, 2, 3]
    with pytest.raises(FailedError, match="an answer has a number that is not finite"):
        some[1].result(5)
    assert service.look(lambda b: b.controller.health) == {}
    assert service.submit("inf", 8).result(5).number == 7
    assert set(service.look(lambda b: b.controller.health)) == {9}
    service.close()
