"""Requests with a long time limit beside others: they wait longer, and give the others no more time."""

from __future__ import annotations

import pytest

from search.serve.batching import Batcher, Limits
from search.serve.bucket import Request
from search.serve.controller import Controller
from search.serve.policy import BacklogFit
from search.serve.variants import Variant

FAST, ACCURATE = 1, 2
FRONT = tuple(
    Variant(number, quality, 1.0 - quality, ((1, seconds), (8, 8 * seconds)), 32, 1.3)
    for number, quality, seconds in ((FAST, 0.7, 0.005), (ACCURATE, 0.8, 0.02))
)


def queue_of(*requests: Request) -> Batcher:
    queue = Batcher(Controller(FRONT, BacklogFit()), Limits(slo_s=0.1))
    assert [queue.offer(one, 0.0) for one in requests] == [None] * len(requests)
    return queue


def row(name: str, within_s: float = 0.1, length: int = 32) -> Request:
    return Request(length, 0.0, within_s, name)


@pytest.mark.parametrize("length", [32, 64])
@pytest.mark.parametrize("patient", [0, 1, 20])
def test_a_long_time_limit_gives_others_no_time(length: int, patient: int) -> None:
    # By the accurate variant four rows take 0.08 s of their 0.1 s.
    rows = [row(f"{number}") for number in range(4)]
    batch = queue_of(*rows, *(row("patient", 10.0, length) for _ in range(patient))).next_batch(0.0)
    assert batch is not None and (batch.length, batch.variant.number) == (32, FAST)


def test_where_all_have_a_long_time_limit_they_are_planned_by_it() -> None:
    batch = queue_of(*(row("patient", 10.0) for _ in range(20))).next_batch(0.0)
    assert batch is not None and batch.variant.number == ACCURATE


def test_rows_of_a_length_are_answered_in_the_order_in_which_they_are_due() -> None:
    queue = queue_of(row("last", 10.0), row("first"), row("third", 5.0), row("second"), row("other", 7.0, 64))
    names = []
    while (batch := queue.next_batch(0.0)) is not None:
        names += [request.payload for request in batch.requests]
        queue.finish(batch, 0.005)
    assert names == ["first", "second", "third", "other", "last"]


def test_what_has_failed_goes_before_what_is_due_with_it() -> None:
    queue = queue_of(*(row(f"{number}") for number in range(3)), row("patient", 10.0))
    batch = queue.next_batch(0.0)
    assert batch is not None
    queue.finish(batch, 0.0, error="it failed")
    again = queue.next_batch(0.0)
    assert again is not None and again.requests[0].payload == "0"
