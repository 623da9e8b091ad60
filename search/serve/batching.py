"""Dynamic batching: a bounded queue with length buckets, deadlines and admission control, as a pure state machine.

    batcher = Batcher(controller, Limits(slo_s=0.05))
    refusal = batcher.offer(Request(length=23, arrived_s=now, deadline_s=now + 0.05, payload=row), now)
    batch = batcher.next_batch(now)            # a worker is free; None: nothing is due
    batcher.finish(batch, now)                 # or finish(batch, now, error="worker died")
    batcher.expired(now)                       # requests that can no longer be answered in time
    batcher.wake_at(now)                       # when to call next_batch again, without other events

Time is passed in, in seconds of any monotonic clock: a simulator and `search.serve.dispatcher` run the same code.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from search.serve.admission import STANDSTILL, TIGHT, AdmissionMargin, Standstill, spread_s
from search.serve.backlog import backlog_of
from search.serve.bucket import Bucket, Request
from search.serve.controller import Controller, UnavailableError
from search.serve.policy import Backlog
from search.serve.variants import Variant, useful_batch

#: Tokens by which rows are grouped into batches. Beyond 512 a row is several windows of a long context.
LENGTHS = (16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
#: Tokens where each row is a call of its own: a call's expected time is then that of its row, within an eighth.
CLOSE_LENGTHS = (*(step * 2**power // 8 for power in range(4, 14) for step in range(8, 16)), 16384)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a queue."""

    slo_s: float = 0.05  # the latency objective, and the deadline of requests that bring none
    max_batch: int = 32
    max_wait_s: float = 0.002  # a request waits at most so long for company
    max_queue: int = 1024
    lengths: tuple[int, ...] = LENGTHS  # tokens; rows are padded to the first that is enough
    attempts: int = 2  # batches that a request may fail in

    def padded(self, length: int) -> int:
        """The bucket of a row of `length` tokens, to which it is padded; the last one for longer rows."""
        return self.lengths[min(bisect_left(self.lengths, length), len(self.lengths) - 1)]


def limits_for(variants: Sequence[Variant], limits: Limits) -> Limits:
    """`limits` with close lengths where no variant gains by batches of two rows or more.

    A group of rows then only blurs their times: with a row of 130 tokens taken for one of 256 twice the time is kept.
    """
    gaining = any(useful_batch(v, v.length, limits.max_batch) > 1 for v in variants)
    return limits if gaining else replace(limits, lengths=CLOSE_LENGTHS)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused, and when to retry it."""

    reason: Literal["queue full", "over capacity", "unavailable", "closing"]
    retry_after_s: float


@dataclass(frozen=True, slots=True, eq=False)
class RequestBatch:
    """Requests that one call of a model answers."""

    variant: Variant
    requests: tuple[Request, ...]
    length: int  # tokens, padded
    started_s: float
    done_s: float  # expected


class Batcher:
    """The queue and the running batches. Not thread-safe: one caller at a time."""

    #: Seconds over which the rate of arrivals is averaged.
    RATE_S = 0.25

    def __init__(self, controller: Controller, limits: Limits, workers: int = 1) -> None:
        self.controller, self.limits, self.workers = controller, limits, workers
        self.refused = self.served = self.late = self.dropped = 0
        self._buckets = {length: Bucket() for length in limits.lengths}
        #: Those of them that have requests, which are few of a hundred, by their length.
        self._filled: dict[int, Bucket] = {}
        self._running: set[RequestBatch] = set()
        self._expired: list[Request] = []
        self._margin, self._uncomputed = AdmissionMargin(), Standstill()
        self._rate, self._rate_at_s = 0.0, 0.0

    @property
    def waiting(self) -> int:
        return sum(map(len, self._filled.values()))

    @property
    def running(self) -> int:  # batches
        return len(self._running)

    @property
    def margin(self) -> float:
        """The factor of the margin that a request must have to be taken (`AdmissionMargin`)."""
        return self._margin.factor

    def rate(self, now_s: float) -> float:
        """Arrivals per second."""
        return self._rate * math.exp(-max(now_s - self._rate_at_s, 0.0) / self.RATE_S)

    def offer(self, request: Request, now_s: float) -> Refusal | None:
        """Queue the request, or return why it is refused."""
        self._rate, self._rate_at_s = self.rate(now_s) + 1.0 / self.RATE_S, now_s
        refusal = self._refusal(request, now_s)
        if refusal is None:
            length = self.limits.padded(request.length)
            self._buckets[length].append(request)
            self._note(length)
        self.refused += refusal is not None
        return refusal

    def withdraw(self, request: Request) -> None:
        """Remove a request that nobody waits for any more, unless it is running."""
        request.withdrawn = True
        length = self.limits.padded(request.length)
        self._buckets[length].discard(request)
        self._note(length)

    def next_batch(self, now_s: float) -> RequestBatch | None:
        """The batch for a free worker, without expired requests; None where none is due."""
        self._drop_hopeless(now_s)
        due = [n for n in self._filled if self._due_at(n, now_s) <= now_s]
        if not due:
            return None
        length = min(due, key=lambda length: self._buckets[length].first.due_s)
        try:
            choice = self.controller.decide(self._backlog(length, now_s), now_s)
        except UnavailableError:
            return None
        requests = self._buckets[length].take(choice.batch)
        self._note(length)
        expected = self.controller.times.expected_s(choice.variant, len(requests), length)
        batch = RequestBatch(choice.variant, requests, length, now_s, now_s + expected)
        self._running.add(batch)
        return batch

    def finish(
        self, batch: RequestBatch, now_s: float, error: str = "", retry: bool = True, length: int | None = None
    ) -> tuple[Request, ...]:
        """Record that the batch was answered, or failed with `error`; returns the requests that are given up.

        `length` is the tokens a row that were computed, where they are others than were expected: a completion may end
        early. With 0 the call is no evidence of the variant's speed.

        Requests of a failed batch go back to the head of their queue, in order, for as often as `Limits.attempts` says;
        without `retry` they are given up.
        """
        self._running.discard(batch)
        if not error:
            self._uncomputed.end()
            if computed := batch.length if length is None else length:
                self.controller.served(batch.variant, len(batch.requests), computed, now_s - batch.started_s)
            else:
                self.controller.healthy(batch.variant.number)
            self.served += len(batch.requests)
            self.late += sum(request.overdue or request.due_s < now_s for request in batch.requests)
            self._learn(batch.requests, now_s)
            return ()
        self.controller.failed(batch.variant, now_s, error)
        for request in batch.requests:
            request.failures += 1 if retry else self.limits.attempts
        waited_for = [request for request in batch.requests if not request.withdrawn]
        again = [request for request in waited_for if request.failures < self.limits.attempts]
        self._buckets[batch.length].put_back(again)
        self._note(batch.length)
        return tuple(request for request in waited_for if request.failures >= self.limits.attempts)

    def expired(self, now_s: float) -> tuple[Request, ...]:
        """Requests dropped since the last call because no variant can answer them in time any more."""
        self._drop_hopeless(now_s)
        dropped, self._expired = tuple(self._expired), []
        return dropped

    def wake_at(self, now_s: float) -> float:
        """The time of the next due batch or expiry, as far as is known; infinity where nothing waits.

        Where every variant is out, a batch is due when the first of them is tried again.
        """
        due = min((self._due_at(n, now_s) for n in self._filled), default=math.inf)
        ends = min((bucket.first.due_s for bucket in self._filled.values()), default=math.inf)
        return min(max(due, self.controller.back_at(now_s)), ends)

    def drain_s(self, now_s: float) -> float:
        """Expected seconds until all running and waiting requests are served. Raises UnavailableError."""
        fastest = self.controller.fastest(now_s)
        return self._left_s(now_s) + self._backlog(0, now_s).drain_s(self.controller.times, lambda length: fastest)

    def _left_s(self, now_s: float) -> float:
        """Expected seconds until the running batches are done."""
        # A batch that is overdue may take as long again: a call that hangs is no free worker.
        return sum(abs(batch.done_s - now_s) for batch in self._running) / self.workers

    def _refusal(self, request: Request, now_s: float) -> Refusal | None:
        try:
            fastest = self.controller.fastest(now_s)
        except UnavailableError as reason:
            return Refusal("unavailable", reason.retry_after_s)
        times = self.controller.times
        backlog = self._before(request, fastest, now_s)
        calls = list(backlog.calls(times, lambda length: fastest))
        drain = self._left_s(now_s) + sum(number * seconds for number, seconds in calls) / self.workers
        if self.waiting >= self.limits.max_queue:
            return Refusal("queue full", drain / 2)
        # It travels with rows that wait before it. With room for a call on one row only, a full queue would be late.
        padded = self.limits.padded(request.length)
        company = len(self._buckets[padded]) + 1
        if company > 1:  # one row is always within the limit
            company = min(company, backlog.batch_limit(times, fastest, padded))
        own = times.expected_s(fastest, company, padded)
        calls += [(1, batch.done_s - batch.started_s) for batch in self._running]
        # With nothing before it there is no capacity to be over: it may be in time, if it is expected to be.
        spread = spread_s(own, calls, times.tail(fastest), self.workers) if calls else 0.0
        needed = self._margin.needed_s(drain + own, spread)
        left = request.due_s - now_s
        request.tight = needed > TIGHT * left and not request.overdue
        if needed <= left:
            return None
        self._doubt(drain + own, left, now_s)
        return Refusal("over capacity", needed - left)

    def _before(self, request: Request, fastest: Variant, now_s: float) -> Backlog:
        """The backlog that is served before a request: what is overdue only fills the calls of others, or it is too."""
        backlog = self._backlog(0, now_s)
        if request.overdue or all(self._buckets[length].in_time == count for length, count in backlog.waiting):
            return backlog
        waiting: list[tuple[int, int]] = []
        for length, count in backlog.waiting:
            full = backlog.batch_limit(self.controller.times, fastest, length)
            calls = math.ceil(self._buckets[length].in_time / full)
            waiting.append((length, min(calls * full, count)))
        return replace(backlog, waiting=tuple(waiting))

    def _doubt(self, expected_s: float, left_s: float, now_s: float) -> None:
        """Forget a part of what refuses a request with `left_s`, where it has long let none in that could correct it.

        After a stall calls may be expected to take longer than any request has.
        """
        long_s = STANDSTILL * max(self.limits.slo_s, left_s)
        if expected_s <= left_s:
            self._margin.refused(now_s, long_s)
        elif not self._running and self._uncomputed.refused(now_s, long_s):
            self.controller.times.fade()

    def _learn(self, requests: Iterable[Request], now_s: float) -> None:
        """Adjust the margin by tight requests that end now, in time or not."""
        for request in requests:
            if request.tight:
                self._margin.learn(request.due_s < now_s)
                request.tight = False

    def _note(self, length: int) -> None:
        """Record whether a bucket has requests."""
        bucket = self._buckets[length]
        if not bucket:
            self._filled.pop(length, None)
        elif length not in self._filled:
            self._filled = dict(sorted([*self._filled.items(), (length, bucket)]))

    def _drop_hopeless(self, now_s: float) -> None:
        """Drop requests that even the fastest variant would answer after their deadline; others wait as overdue."""
        try:
            fastest = self.controller.fastest(now_s)
        except UnavailableError:
            fastest = None
        for length, bucket in tuple(self._filled.items()):
            done_s = now_s + (0.0 if fastest is None else self.controller.times.expected_s(fastest, 1, length))
            gone, overdue = bucket.missed(done_s)
            self._note(length)
            self._learn((*gone, *overdue), math.inf)
            self._expired += gone
            self.dropped += len(gone)

    def _due_at(self, length: int, now_s: float) -> float:
        """When the next batch of a bucket that is not empty starts if a worker is free."""
        bucket = self._buckets[length]
        # Waiting pays only where another request is expected meanwhile, and some variant gains by a larger batch.
        wait = self.limits.max_wait_s if self.rate(now_s) * self.limits.max_wait_s >= 1.0 else 0.0
        if wait and len(bucket) >= self._useful(length):
            return now_s
        return min(bucket.first.arrived_s + wait, bucket.first.due_s - self.limits.slo_s / 2)

    def _useful(self, length: int) -> int:
        """The largest batch that some variant gains by."""
        return max(useful_batch(variant, length, self.limits.max_batch) for variant in self.controller.variants)

    def _backlog(self, length: int, now_s: float) -> Backlog:
        """The backlog as input of a decision on the bucket `length`; 0: on no bucket."""
        return backlog_of(self._filled, length, now_s, self.limits.max_batch, self.limits.slo_s, self.workers)
