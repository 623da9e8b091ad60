"""Worker threads around the batcher: requests come from any thread or event loop; each worker runs one batch at a time.

dispatcher = Dispatcher(Batcher(controller, limits), [run])     # run(variant number, payloads) -> answers
answer = await asyncio.wrap_future(dispatcher.submit(row, length=23))
dispatcher.close()                                              # drains, then ends the workers
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.errors import one_line
from search.serve.batching import Batcher, Refusal, RequestBatch
from search.serve.bucket import Request

log = logging.getLogger(__name__)

#: The interpreter's switch interval: seconds for which a busy thread keeps the GIL while another waits for it.
SWITCH_S = 0.0005
#: The longest time in seconds between two searches of a queue for expired requests.
SWEEP_S = 0.1
#: Times the objective for which a request without a time limit of its own is computed: better late, after those that
#: can be in time, than not at all.
GRACE = 5.0
#: Why a row, or a variant that gives no other answers, has failed.
NOT_FINITE = "an answer has a number that is not finite"
#: Answers for payloads by the variant of that number, in order. Each worker has its own.
#: An answer that is an exception is the failure of that row alone; an exception that is raised takes the variant out.
Run = Callable[[int, Sequence[Any]], Sequence[Any]]


class RefusedError(Exception):
    """The request is refused, because the service is over its capacity; `retry_after_s` says when to retry."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)  # when to retry stands in Retry-After
        self.refusal = refusal
        self.retry_after_s = refusal.retry_after_s


class ExpiredError(Exception):
    """The request was not computed: no variant could answer it before its deadline."""


class FailedError(Exception):
    """Each batch that the request was in failed."""


class BrokenOffError(Exception):
    """A model failed after a part of its answer was sent, so that the row must not be retried."""


class Deadline:
    """The deadline of a request; each stage may use the time that earlier stages have left.

    Args:
        within_s: seconds after which nothing is computed any more.
        due_s: seconds in which the request is to be answered; by default the same.
    """

    def __init__(self, within_s: float, due_s: float = math.inf) -> None:
        now = time.monotonic()
        self._ends, self._due = now + within_s, now + min(due_s, within_s)

    def left_s(self) -> float:
        """The seconds that are left, above 0. Raises ExpiredError where none are."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise ExpiredError("the request's time is over")
        return left

    def due_s(self) -> float:
        """The seconds in which it is still to be answered; 0 where it is overdue."""
        return max(self._due - time.monotonic(), 0.0)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and how its time is divided."""

    answer: Any
    number: int  # the variant
    batch: int  # rows that were answered together
    waited_s: float
    computed_s: float


class Dispatcher:
    """Runs a batcher in real time. Thread-safe; `submit` never waits for a model."""

    def __init__(self, batcher: Batcher, runs: Sequence[Run]) -> None:
        """One worker thread for each of `runs`; while a run waits for a process of its own, its thread is idle."""
        # A worker with its answers waits for a busy event loop to give up the interpreter: 5 ms by default, which is as
        # long as a whole batch of a fast variant.
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        batcher.workers = len(runs)
        self._batcher = batcher
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(run,), name=f"worker-{i}", daemon=True)
            for i, run in enumerate(runs)
        ]
        self._threads.append(threading.Thread(target=self._sweep, name="deadlines", daemon=True))
        for thread in self._threads:
            thread.start()

    def submit(
        self, payload: Any, length: int, within_s: float | None = None, due_s: float = math.inf
    ) -> Future[Answered]:
        """Queue a row of `length` tokens, to be answered in `due_s` seconds, and not computed after `within_s`.

        With a `due_s` of 0 it is overdue already. Without `within_s` it is due at the objective, and is computed up to
        `GRACE` times that.

        A future that is cancelled takes its row out of the queue.

        Raises:
            RefusedError: above capacity, or closing. The future raises ExpiredError or FailedError.
        """
        future: Future[Answered] = Future()
        now = time.monotonic()
        with self._changed:
            if within_s is None:
                due_s = self._batcher.limits.slo_s
                within_s = GRACE * due_s
            request = Request(length, now, now + within_s, (payload, future), now + due_s)
            refusal = Refusal("closing", 1.0) if self._closing.is_set() else self._batcher.offer(request, now)
            if refusal is not None:
                raise RefusedError(refusal)
            self._changed.notify()
        future.add_done_callback(lambda done: self._withdraw(request) if done.cancelled() else None)
        return future

    def _withdraw(self, request: Request) -> None:
        with self._changed:
            self._batcher.withdraw(request)
            self._changed.notify_all()

    def pin(self, number: int | None) -> None:
        """Serve by one variant; None: by the controller's choice again. Raises KeyError."""
        with self._changed:
            self._batcher.controller.pin(number)

    def out(self, number: int, for_s: float, reason: str, likely_s: float = math.inf) -> None:
        """Leave a variant out for `for_s` seconds or until `back`, which is expected in `likely_s` seconds."""
        with self._changed:
            now = time.monotonic()
            self._batcher.controller.out(number, now + for_s, reason, now + likely_s)

    def back(self, number: int) -> None:
        """A variant can serve again."""
        with self._changed:
            self._batcher.controller.back(number)
            self._changed.notify_all()

    def look(self, read: Callable[[Batcher], Any]) -> Any:
        """The result of `read` on the batcher; neither it nor its controller changes meanwhile."""
        with self._changed:
            return read(self._batcher)

    def close(self, timeout_s: float = 10.0) -> None:
        """Refuse new requests, answer the waiting ones, end the threads."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        ends = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(ends - time.monotonic(), 0.0))

    def _work(self, run: Run) -> None:
        while (batch := self._next()) is not None:
            payloads = [request.payload[0] for request in batch.requests]
            begun, error, answers = time.monotonic(), "", list[Any]()
            again = True
            try:
                answers = list(run(batch.variant.number, payloads))
                if len(answers) != len(payloads):
                    error = f"{len(answers)} answers for {len(payloads)} rows"
                else:
                    answers, error = _checked(answers)
            except Exception as reason:
                # A model's failure takes the variant out; it must not end the worker.
                error, again = one_line(reason), not isinstance(reason, BrokenOffError)
            self._done(batch, begun, answers, error, again)

    def _next(self) -> RequestBatch | None:
        """The next batch, once one is due; None after closing, when nothing waits."""
        with self._changed:
            while True:
                now = time.monotonic()
                batch = self._batcher.next_batch(now)
                if batch is not None:
                    return batch
                if self._closing.is_set() and not self._batcher.waiting:
                    return None
                wakes = self._batcher.wake_at(now)
                # A wait of infinity is none that a condition takes.
                self._changed.wait(None if math.isinf(wakes) else max(wakes - now, 0.0002))

    def _done(self, batch: RequestBatch, begun_s: float, answers: Sequence[Any], error: str, again: bool) -> None:
        now = time.monotonic()
        with self._changed:
            if not error:
                # First, so that who waits wakes up meanwhile. Who then looks at the batcher waits for the lock.
                _give(batch, begun_s, now, answers)
            given_up = self._batcher.finish(batch, now, error, again, _computed(answers))
            self._changed.notify_all()
        for request in given_up:
            _resolve(request, FailedError(error))
        if error:
            log.warning("variant %d failed: %s", batch.variant.number, error)

    def _sweep(self) -> None:
        """Fail expired requests though every worker is busy, at least ten times per objective and per second."""
        every = min(self._batcher.limits.slo_s / 10, SWEEP_S)
        while True:
            ended = self._closing.wait(every)
            with self._changed:
                gone = self._batcher.expired(time.monotonic())
                # A batch that runs may fail, and its requests wait again.
                ended = ended and not self._batcher.waiting and not self._batcher.running
            for request in gone:
                _resolve(request, ExpiredError("no variant could answer in time"))
            if ended:
                return
            if self._closing.is_set():
                time.sleep(every)


def is_finite(answer: Any) -> bool:
    """Whether the numbers of an answer are finite: a score, an embedding, the values of a mapping or a list."""
    match answer:
        case float() | np.floating():
            return math.isfinite(answer)
        case np.ndarray():
            return answer.dtype.kind != "f" or bool(np.isfinite(answer).all())
        case Mapping():
            return all(map(is_finite, answer.values()))
        case list() | tuple():
            return all(map(is_finite, answer))
    return True


def _checked(answers: Sequence[Any]) -> tuple[list[Any], str]:
    """(answers, why the variant has failed or ""): a row whose numbers are not finite fails alone, unless all do."""
    finite = list(map(is_finite, answers))
    if answers and not any(finite):
        return list(answers), NOT_FINITE
    return [answer if good else FailedError(NOT_FINITE) for answer, good in zip(answers, finite, strict=True)], ""


def _computed(answers: Sequence[Any]) -> int | None:
    """Tokens a row of a call, where its answers say so (`Piece.computed`); 0 where every row was refused."""
    given = [answer for answer in answers if not isinstance(answer, Exception)]
    if answers and not given:
        return 0
    counts = [answer.computed for answer in given if hasattr(answer, "computed")]
    return max(counts) if counts else None


def _give(batch: RequestBatch, begun_s: float, ended_s: float, answers: Sequence[Any]) -> None:
    """Give each request of a batch its answer, or why its row has failed."""
    for request, answer in zip(batch.requests, answers, strict=True):
        waited = begun_s - request.arrived_s
        reply = Answered(answer, batch.variant.number, len(answers), waited, ended_s - begun_s)
        _resolve(request, answer if isinstance(answer, Exception) else reply)


def _resolve(request: Request, result: Answered | Exception) -> None:
    future: Future[Answered] = request.payload[1]
    # A caller that has gone away has cancelled its future.
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
