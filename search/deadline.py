"""The run's time limit, and Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(Exception):  # noqa: N818 - the run's own limit, not an error
    """The run's time limit passed while a candidate was evaluated; its trial stays open for the next run."""


class Clock:
    """The run's own time limit. `reserve_s` of it is kept for the finalists and the export.

    `before_s` are the seconds that earlier runs of the study took.
    """

    def __init__(self, timeout: float | None) -> None:
        self.began, self.timeout = time.monotonic(), timeout
        self.deadline = None if timeout is None else self.began + timeout
        self.reserve_s = self.before_s = 0.0
        self.interrupted = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def study_seconds(self) -> float:
        """Of all runs of the study, rounded to a tenth."""
        return round(self.before_s + self.seconds, 1)

    @property
    def search_deadline(self) -> float | None:
        return None if self.deadline is None else self.deadline - self.reserve_s

    @property
    def left_s(self) -> float:
        """Seconds left of the whole run's time: infinite without a limit, negative after it."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    def left(self) -> bool:
        """Whether there is time for another candidate."""
        return not self.interrupted and (self.search_deadline is None or time.monotonic() < self.search_deadline)

    @contextmanager
    def watching_ctrl_c(self) -> Iterator[None]:
        """Record a Ctrl-C, because Python drops the exception where it falls into a destructor."""

        def note_interrupt(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.default_int_handler(number, frame)

        if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
            yield
            return
        before = signal.signal(signal.SIGINT, note_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
