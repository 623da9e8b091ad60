"""Models in processes of their own: one that dies or hangs does not affect the others, and is restarted.

workers = Workers({7: functools.partial(ModelProcess, folder, "cpu", 0.0)})
fleet = Fleet(task, study, variants, workers.answers, limits, workers=workers)
workers.pids            # by the variant's number
workers.restarts        # how often one was started again
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from objectives.process import Remote, RemoteDied, RemoteTimeout
from search.errors import UserError, one_line
from search.serve.dispatcher import BrokenOffError, Dispatcher, ExpiredError
from search.serve.generation_request import GenerationRequest
from search.serve.generator import Piece
from search.serve.hanging import LEAST_S, CallPace, HangLimit
from search.serve.model_process import Factory
from search.serve.variants import Variant

log = logging.getLogger(__name__)

#: Seconds between two checks of the processes.
LOOK_S = 0.1
#: Seconds that each kind of thread has to end when the processes are ended.
CLOSE_S = 10.0
#: Seconds in which a process must start, compile included, and a call must end that is made before the service serves.
START_S = 600.0


class Worker:
    """One process. Not thread-safe: one caller at a time, as from the dispatcher.

    Raises:
        UserError: by the constructor: the process hung or died at its start, or its factory raised one.
    """

    def __init__(self, number: int, factory: Factory) -> None:
        """`number`: the variant's."""
        self._number = number
        #: When a call counts as hung; None before the service serves.
        self.hang: HangLimit | None = None
        #: Seconds that the process took to start.
        self.start_s = 0.0
        self.restarts = 0
        self._stop = multiprocessing.get_context("forkserver").RawValue("q", 0)
        self._factory = partial(factory, self._stop)
        self._calls = 0
        self._calling = threading.Lock()
        self._closed = False
        self._begun: Remote | None = None  # the newest process, which may be starting
        with self._no_end_at_start("start"):
            self._remote = self._started()

    @property
    def pid(self) -> int:
        return self._remote.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended; during a call, that call reports it instead."""
        if not self._calling.acquire(blocking=False):
            return False
        try:
            return not self._remote.alive
        finally:
            self._calling.release()

    def _started(self) -> Remote:
        began = time.monotonic()
        # Passive: threads that spin between calls would take the cores from who computes.
        remote = Remote(self._factory, timeout_s=START_S, waiting="passive", begun=self._take)
        self.start_s = time.monotonic() - began
        return remote

    def _take(self, remote: Remote) -> None:
        """Let `close` kill a process that is starting."""
        self._begun = remote
        if self._closed:  # before there was anything to kill
            remote.kill()

    @contextlib.contextmanager
    def _no_end_at_start(self, what: str) -> Iterator[None]:
        """A process that hangs or dies is a UserError."""
        try:
            yield
        except (RemoteTimeout, RemoteDied) as error:
            raise UserError(f"variant {self._number}: {what}: {one_line(error)}") from error

    def restart(self) -> bool:
        """Start the process again, unless the worker is closed; returns whether it was. A call meanwhile is refused.

        Raises:
            RemoteTimeout, RemoteDied: it does not start. The exceptions of its factory too.
        """
        # Under the lock: a pipe that is closed while somebody reads from it may be another file's by then.
        with self._calling:
            self._remote.close()
        try:
            remote = self._started()  # without the lock, for which a call would wait
        except RemoteDied:
            if self._closed:
                return False
            raise
        with self._calling:
            if self._closed:
                remote.close()
            else:
                self._remote = remote
                self.restarts += 1
        return not self._closed

    def close(self) -> None:
        """End the process, also one that is starting; a call that runs meanwhile raises RemoteDied."""
        self._closed = True
        if self._begun is not None:
            self._begun.kill()
        self._remote.kill()  # so that the call gives up its turn
        with self._calling:
            self._remote.close()

    def call(self, method: str, *arguments: Any, within_s: float | None = None) -> Any:
        """A method's result, by default in the time of a start.

        Raises:
            RemoteDied, RemoteTimeout: its process ended, or is being started again; it took too long.
        """
        with self._calling:
            return self._remote.call(method, *arguments, timeout_s=START_S if within_s is None else within_s)

    def warm(self, method: str, *arguments: Any) -> Any:
        """A call before the service serves, with the time of a start. Raises UserError where the process ends."""
        with self._no_end_at_start(f"its warm-up ({method})"):
            return self.call(method, *arguments)

    def answer(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Answers to rows. Raises the model's exceptions, RemoteDied or RemoteTimeout."""
        asked, hang = list(rows), self.hang
        if hang is None:
            return list(self.call("answer", asked))
        began, expected_s = time.monotonic(), hang.call_s(asked)
        answers = list(self.call("answer", asked, within_s=hang.limit_s(expected_s)))
        hang.learn(expected_s, time.monotonic() - began)
        return answers

    def generate(self, number: int, rows: Sequence[GenerationRequest]) -> Sequence[Any]:
        """The same as `search.serve.generation_request.generating` in this process."""
        return [self._generated(number, row) for row in rows]

    def _generated(self, number: int, row: GenerationRequest) -> Piece | Exception | None:
        self._calls += 1
        row.number = number
        last: Piece | None = None
        stopped = False

        def take(_: str, piece: Any) -> None:
            nonlocal last, stopped
            if row.stopped():
                self._stop.value, stopped = self._calls, True
            if not stopped:
                row.begun, last = True, piece
                row.give(piece)

        def silence_s() -> float:
            """The seconds in which the next piece must come."""
            hang = self.hang
            if hang is None:
                return START_S
            return hang.limit_s(hang.piece_s(row.prompt if last is None else None))

        try:
            asked = ("generate", self._calls, row.prompt, dict(row.options))
            with self._calling:
                self._remote.call(*asked, progress=take, silence_s=silence_s)
        except Exception as error:
            if row.begun:
                raise BrokenOffError(str(error)) from error
            raise
        return ExpiredError("the completion was not done in its time") if stopped else last


class Workers:
    """The processes of a fleet by variant number, and a thread that restarts those that end."""

    def __init__(self, factories: Mapping[int, Factory], least_s: float = LEAST_S) -> None:
        """Start the processes. Raises the exceptions of a `Worker`, after ending all of them.

        `least_s`: seconds before which no call counts as hung.
        """
        self._least_s = least_s
        self._workers: dict[int, Worker] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting: dict[int, threading.Thread] = {}  # one for each, since a start may take long
        try:
            for number, factory in factories.items():
                self._workers[number] = Worker(number, factory)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, number: int) -> Worker:
        return self._workers[number]

    @property
    def answers(self) -> dict[int, Callable[[Sequence[Any]], Sequence[Any]]]:
        return {number: worker.answer for number, worker in self._workers.items()}

    @property
    def completions(self) -> dict[int, Callable[[Sequence[Any]], Sequence[Any]]]:
        return {number: partial(worker.generate, number) for number, worker in self._workers.items()}

    @property
    def pids(self) -> dict[int, int]:
        return {number: worker.pid for number, worker in self._workers.items()}

    @property
    def restarts(self) -> int:
        """How often a process was started again."""
        return sum(worker.restarts for worker in self._workers.values())

    def expect(self, variants: Iterable[Variant], slo_s: float, tokens: Callable[..., int]) -> None:
        """From now on a call that takes too long counts as hung (`HangLimit`)."""
        for variant in variants:
            self[variant.number].hang = HangLimit(variant, slo_s, tokens, self._least_s)

    def paced(self, paces: Mapping[int, CallPace]) -> None:
        """Take the paces of variants, measured here, into account. After `expect`."""
        for number, pace in paces.items():
            hang = self[number].hang
            assert hang is not None
            hang.paced(pace)

    def watch(self, dispatcher: Dispatcher) -> None:
        """Restart ended processes from now on; `dispatcher` leaves the variant out meanwhile."""
        self._thread = threading.Thread(target=self._watch, args=(dispatcher,), name="watchdog", daemon=True)
        self._thread.start()

    def _watch(self, dispatcher: Dispatcher) -> None:
        while not self._closing.wait(LOOK_S):
            for number, worker in self._workers.items():
                starting = self._starting.get(number)
                if (starting is None or not starting.is_alive()) and worker.ended and not self._closing.is_set():
                    arguments = (number, worker, dispatcher)
                    self._starting[number] = threading.Thread(target=self._restart, args=arguments, daemon=True)
                    self._starting[number].start()

    def _restart(self, number: int, worker: Worker, dispatcher: Dispatcher) -> None:
        log.warning("the process of variant %d has ended; it is started again", number)
        dispatcher.out(number, START_S, "its process has ended and is started again", worker.start_s)
        try:
            started = worker.restart()
        except Exception as error:  # tried again at the next look
            log.warning("the process of variant %d does not start: %s", number, error)
            self._closing.wait(1.0)
            return
        if started:
            dispatcher.back(number)

    def close(self) -> None:
        """End the processes, also one that is just being started."""
        self._closing.set()
        for worker in self._workers.values():
            worker.close()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        ends = time.monotonic() + CLOSE_S
        for starting in list(self._starting.values()):
            starting.join(max(ends - time.monotonic(), 0.0))
