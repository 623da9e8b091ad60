"""Requests without a time limit of their own: due at the objective, answered later where they must be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from search.serve.batching import Batcher, Limits
from search.serve.bucket import Request
from search.serve.controller import Controller
from search.serve.dispatcher import GRACE, Deadline, Dispatcher, ExpiredError
from search.serve.policy import BacklogFit
from search.serve.variants import Variant

FRONT = tuple(
    Variant(number, quality, 1.0 - quality, ((1, seconds), (8, 8 * seconds)), 32, 1.3)
    for number, quality, seconds in ((1, 0.7, 0.005), (2, 0.8, 0.02))
)


def batcher() -> Batcher:
    return Batcher(Controller(FRONT, BacklogFit()), Limits(slo_s=0.1))


def answered(queue: Batcher, now_s: float) -> list[str]:
    """The payloads of what waits, in the order in which a worker answers them from then on."""
    names = []
    while (batch := queue.next_batch(now_s)) is not None:
        names += [request.payload for request in batch.requests]
        queue.finish(batch, now_s + 0.01)
    return names


def test_an_overdue_request_is_answered_after_those_that_can_be_in_time() -> None:
    queue = batcher()
    patient, strict = (Request(32, 0.0, ends, name, due_s=0.1) for name, ends in (("patient", 0.5), ("strict", 0.1)))
    assert [queue.offer(one, 0.0) for one in (patient, strict)] == [None, None]
    assert queue.expired(0.2) == (strict,) and queue.waiting == 1  # a stall
    assert queue.wake_at(0.2) <= 0.5
    assert queue.offer(Request(32, 0.2, 0.3, "new"), 0.2) is None
    assert answered(queue, 0.2) == ["new", "patient"]
    assert (queue.served, queue.late, queue.dropped) == (2, 1, 1)


def test_an_overdue_request_hides_no_urgent_one_of_its_length() -> None:
    queue = batcher()
    assert queue.offer(Request(32, 0.0, 0.5, "patient", due_s=0.1), 0.0) is None
    assert queue.expired(0.2) == ()
    assert queue.offer(Request(32, 0.2, 0.25, "soon"), 0.2) is None
    assert queue.offer(Request(64, 0.2, 0.3, "later"), 0.2) is None
    assert answered(queue, 0.2) == ["soon", "later", "patient"]


def test_an_overdue_request_ends_at_its_deadline() -> None:
    queue = batcher()
    request = Request(32, 0.0, 0.5, due_s=0.1)
    assert queue.offer(request, 0.0) is None
    assert queue.expired(0.3) == () and queue.expired(0.499) == (request,)
    assert (queue.waiting, queue.dropped) == (0, 1)


def test_what_is_taken_is_expected_to_be_answered_by_the_time_that_it_is_due() -> None:
    queue = batcher()
    taken = sum(queue.offer(Request(32, 0.0, 0.5, due_s=0.1), 0.0) is None for _ in range(100))
    assert taken * 0.005 <= 0.1


def test_a_tight_request_that_is_overdue_raises_the_margin_once() -> None:
    queue = batcher()
    while queue.offer(Request(32, 0.0, 0.5, due_s=0.1), 0.0) is None:
        pass
    waiting = queue.waiting
    queue.expired(0.2)
    margin = queue.margin
    assert margin > 1.0 and queue.waiting == waiting
    while (batch := queue.next_batch(0.2)) is not None:
        queue.finish(batch, 0.6, length=0)
    assert queue.margin == margin


def test_a_stall_costs_answers_only_where_a_client_said_until_when() -> None:
    def run(number: int, rows: Sequence[Any]) -> Sequence[Any]:
        if rows[0] == "stall":
            time.sleep(0.3)
        return rows

    dispatcher = Dispatcher(batcher(), [run])
    try:
        stall = dispatcher.submit("stall", 32)
        time.sleep(0.05)
        patient, strict = dispatcher.submit("patient", 32), dispatcher.submit("strict", 32, 0.1)
        assert stall.result(2).answer == "stall" and patient.result(2).answer == "patient"
        with pytest.raises(ExpiredError):
            strict.result(2)
    finally:
        dispatcher.close()


def test_a_later_stage_of_an_overdue_request_is_overdue() -> None:
    deadline = Deadline(GRACE * 0.02, 0.02)
    assert 0 < deadline.due_s() <= 0.02 < deadline.left_s()
    time.sleep(0.03)
    assert deadline.due_s() == 0.0 < deadline.left_s()
    assert Deadline(0.5).due_s() == pytest.approx(0.5, abs=0.05)


def test_a_request_that_comes_overdue_is_answered_after_those_that_can_be_in_time() -> None:
    queue = batcher()
    assert queue.offer(Request(32, 0.2, 0.6, "late", due_s=0.2), 0.2) is None
    assert queue.offer(Request(32, 0.2, 0.3, "new"), 0.2) is None
    assert answered(queue, 0.2) == ["new", "late"]
    assert (queue.served, queue.late) == (2, 1)


def test_a_row_of_an_overdue_request_comes_overdue() -> None:
    dispatcher = Dispatcher(batcher(), [lambda number, rows: rows])
    try:
        assert dispatcher.submit("late", 32, 2.0, due_s=0.0).result(2).answer == "late"
        assert dispatcher.submit("new", 32, 2.0).result(2).answer == "new"
    finally:
        dispatcher.close()
    assert dispatcher.look(lambda queue: (queue.served, queue.late)) == (2, 1)


def test_what_can_be_in_time_is_planned_for_beside_what_is_overdue_at_another_length() -> None:
    queue = batcher()
    assert queue.offer(Request(64, 0.0, 0.5, due_s=0.1), 0.0) is None
    assert queue.expired(0.15) == () and queue.waiting == 1
    assert [queue.offer(Request(32, 0.15, 0.25), 0.15) for _ in range(4)] == [None] * 4
    batch = queue.next_batch(0.15)
    # By the slow variant all take 0.12 s, for which only the overdue one has the time.
    assert batch is not None and (batch.length, batch.variant.number) == (32, 1)


def test_what_is_overdue_takes_no_room_from_what_can_be_in_time() -> None:
    queue = batcher()
    while queue.offer(Request(32, 0.0, 1.0, "overdue", due_s=0.1), 0.0) is None:
        pass
    overdue = queue.waiting
    assert queue.expired(0.2) == () and overdue * 0.005 > 0.05
    assert queue.offer(Request(32, 0.2, 0.25, "new"), 0.2) is None
    assert answered(queue, 0.2) == ["new", *["overdue"] * overdue]


def test_what_is_overdue_itself_waits_for_all_that_is() -> None:
    queue = batcher()
    while queue.offer(Request(32, 0.0, 1.0, due_s=0.1), 0.0) is None:
        pass
    queue.expired(0.2)
    within_s = 0.005 * queue.waiting / 2
    refusal = queue.offer(Request(32, 0.2, 0.2 + within_s, due_s=0.2), 0.2)
    assert refusal is not None and refusal.reason == "over capacity"
