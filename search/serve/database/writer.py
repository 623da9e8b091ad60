"""Group commit: one thread runs all writes, and commits those that wait in one transaction.

A caller gets a future that is done once its write is committed, so an answer is stored before it is sent, and workers
do not wait for the disk. The queue is bounded: a write that does not fit is refused.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

#: Writes in one transaction at most.
TOGETHER = 256

#: A function that writes in the transaction; its result becomes the future's.
Write = Callable[["Session"], Any]


class WriterFullError(RuntimeError):
    """The queue of writes is full, because the database is slower than the requests, or the writer is closed."""


class Writer:
    """The thread that writes. It must be closed, or queued writes may be lost.

    Args:
        bound: most writes that may wait.
    """

    def __init__(self, engine: Engine, bound: int = 10_000) -> None:
        self._engine = engine
        self._queue: queue.Queue[tuple[Write, Future[Any]] | None] = queue.Queue(bound)
        self._closed = False
        self._putting = threading.Lock()  # so that nothing is put behind the end
        self._thread = threading.Thread(target=self._run, name="database writer", daemon=True)
        self._thread.start()

    def put(self, write: Write) -> Future[Any]:
        """Queue a write without waiting. The future has its result once it is committed, or its error.

        Raises:
            WriterFullError: the queue is full, or the writer is closed.
        """
        future: Future[Any] = Future()
        with self._putting:
            if self._closed:
                raise WriterFullError("the database writer is closed")
            try:
                self._queue.put_nowait((write, future))
            except queue.Full:
                raise WriterFullError(f"{self._queue.maxsize} writes wait for the database") from None
        return future

    @property
    def waiting(self) -> int:
        """The number of writes that wait."""
        return self._queue.qsize()

    def close(self, timeout_s: float = 30.0) -> None:
        """Commit all queued writes, and end the thread; what is not committed in `timeout_s` is lost, and logged."""
        ends = time.monotonic() + timeout_s
        with self._putting:
            self._closed = True
        with contextlib.suppress(queue.Full):  # and stays full: the database does not answer
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(max(ends - time.monotonic(), 0.0))
        if self._thread.is_alive():
            log.error("the database did not take %d writes in %.0f s; they are lost", self.waiting, timeout_s)

    def _run(self) -> None:
        ended = False
        while not ended:
            taken = [self._queue.get()]
            while len(taken) < TOGETHER:
                try:
                    taken.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ended = None in taken
            work = [one for one in taken if one is not None]
            if work:
                self._commit(work)

    def _commit(self, work: list[tuple[Write, Future[Any]]]) -> None:
        """All in one transaction; where that fails each in one of its own, so that one bad write spoils no other."""
        from sqlalchemy.orm import Session

        try:
            with Session(self._engine) as session, session.begin():
                results = [write(session) for write, _ in work]
        except Exception as error:
            if len(work) == 1:
                log.warning("a write failed: %s", type(error).__name__)
                _settle(work[0][1], error=error)
                return
            for one in work:
                self._commit([one])
            return
        for (_, future), result in zip(work, results, strict=True):
            _settle(future, result)


def _settle(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    """The future's outcome, unless who waited has given up."""
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
