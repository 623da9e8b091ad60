"""Group commit: one thread runs all writes, and commits those that wait in one transaction.

A caller gets a future that is done once its write is committed, so an answer is stored before it is sent, and workers
do not wait for the disk. The queue is bounded: a write that does not fit is refused.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

log = logging.getLogger(__name__)

#: Writes in one transaction at most.
TOGETHER = 256
#: Transactions after which SQLite's log is written into its file.
CHECKPOINT = 150

#: A function that writes in the transaction; its result becomes the future's.
Write = Callable[["Connection"], Any]


class WriterFullError(RuntimeError):
    """The queue of writes is full, because the database is slower than the requests, or the writer is closed."""


class Writer:
    """The thread that writes. It must be closed, or queued writes may be lost.

    Args:
        bound: most writes that may wait.
    """

    def __init__(self, engine: Engine, bound: int = 10_000) -> None:
        self._engine, self._bound = engine, bound
        # Without a bound of its own, because that of a `Queue` costs time of who asks: it is written in Python.
        self._queue: queue.SimpleQueue[tuple[Write, Future[Any]] | None] = queue.SimpleQueue()
        # A connection to a file does not break. To take one for each transaction takes longer than to write, and
        # another one's cache of pages is out of date.
        self._keeps_connection = engine.dialect.name == "sqlite"
        self._connection: Connection | None = None
        self._transactions = 0
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
            if self._queue.qsize() >= self._bound:
                raise WriterFullError(f"{self._bound} writes wait for the database")
            self._queue.put((write, future))
        return future

    @property
    def waiting(self) -> int:
        """The number of writes that wait."""
        return max(self._queue.qsize() - self._closed, 0)  # the end is no write

    def close(self, timeout_s: float = 30.0) -> None:
        """Commit all queued writes, and end the thread; what is not committed in `timeout_s` is lost, and logged."""
        with self._putting:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("the database did not take %d writes in %.0f s; they are lost", self.waiting, timeout_s)

    def _run(self) -> None:
        ended = False
        while not ended:
            taken = [self._queue.get()]
            while len(taken) < TOGETHER and not self._queue.empty():
                taken.append(self._queue.get_nowait())
            ended = None in taken
            work = [one for one in taken if one is not None]
            if work:
                self._commit(work)
                self._checkpoint()
        if self._connection is not None:
            self._connection.close()

    def _commit(self, work: list[tuple[Write, Future[Any]]]) -> None:
        """All in one transaction; where that fails each in one of its own, so that one bad write spoils no other."""
        try:
            results = self._results(work)
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

    def _checkpoint(self) -> None:
        """Now and then write SQLite's log into its file, which waits for the disk: between transactions."""
        self._transactions += 1
        if self._connection is None or self._transactions % CHECKPOINT:
            return
        try:
            self._connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").close()
            self._connection.rollback()  # SQLAlchemy has begun a transaction, the database none
        except Exception as error:
            log.warning("the database's log is not written into its file: %s", type(error).__name__)

    def _results(self, work: list[tuple[Write, Future[Any]]]) -> list[Any]:
        """What the writes return, once all of them are committed."""
        if not self._keeps_connection:
            with self._engine.begin() as connection:
                return [write(connection) for write, _ in work]
        if self._connection is None:
            self._connection = self._engine.connect()
        with self._connection.begin():
            return [write(self._connection) for write, _ in work]


def _settle(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    """The future's outcome, unless who waited has given up."""
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
