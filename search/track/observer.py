"""Tracking that may fail: the search goes on, and what MLflow did not accept is logged later."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from objectives.quiet import quietly
from search.errors import disk_is_full, one_line
from search.failures import is_ours
from search.front.front import Front
from search.front.outcome import Outcome
from search.front.study_record import StudyRecord
from search.track.mlflow_store import is_database
from search.track.tracker import RunStatus

log = logging.getLogger(__name__)

#: After a failure MLflow is not called for so long, and so many times as long as the failure took: a server that does
#:     not answer costs a small share of a search.
PAUSE_S = 30.0
PAUSE_SHARE = 10.0


class Logs(Protocol):
    """A tracker (`search.track.tracker.Tracker`), as far as a search that is under way uses it."""

    @property
    def page(self) -> str: ...
    def observe(self, outcome: Outcome, front: Front) -> None: ...
    def sync(self, front: Front) -> None: ...
    def finish(self, front: Front, study: StudyRecord, exports: Path, status: RunStatus) -> None: ...
    def close(self, status: RunStatus) -> None: ...
    def unlogged(self, front: Front) -> list[int]: ...


class Tracking:
    """Passes a search to its tracker; a failure of the tracker is logged and reported, and never ends the search.

    Args:
        connect: the tracker of this search, started; may fail, and is asked again then.
        say: shows one line to the user.
        uri: where MLflow is, for that line.
    """

    def __init__(
        self,
        connect: Callable[[], Logs],
        say: Callable[[str], None],
        uri: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._say, self._uri, self._clock = connect, say, uri, clock
        self._tracker: Logs | None = None
        self._behind = False  # whether something could not be logged
        self.retry_at = 0.0  # when to try again

    @property
    def page(self) -> str:
        """The study's page in MLflow's UI; "" where MLflow never answered."""
        return "" if self._tracker is None else self._tracker.page

    def observe(self, outcome: Outcome, front: Front) -> None:
        """Log a trial, and earlier ones that are missing. The loop calls it as an observer."""
        if not self._behind:
            self._try(lambda: self._connected().observe(outcome, front))
        elif self._clock() >= self.retry_at:
            self._try(lambda: self._connected().sync(front))

    def begin(self, front: Front) -> None:
        """Log the trials that an earlier run did not log.

        Raises:
            UserError: a database that cannot be opened. (A server may answer later.)
        """
        if is_database(self._uri):
            self._connected()
        self._try(lambda: self._connected().sync(front))

    def finish(self, front: Front, study: StudyRecord, exports: Path, status: RunStatus) -> list[str]:
        """Log the end of a search; returns lines for the user about what could not be logged."""

        def finish() -> None:
            tracker = self._connected()
            if self._behind:
                tracker.sync(front)
            tracker.finish(front, study, exports, status)

        if self._try(finish):
            return []
        missing = [o.number for o in front.outcomes] if self._tracker is None else self._tracker.unlogged(front)
        trials = f"trials {', '.join(map(str, missing))}, " if missing else ""
        return [
            f"      not logged to MLflow at {self._uri}: {trials}the front's files and models",
            f"      they are in {exports}; the same command logs them when MLflow answers",
        ]

    def close(self, status: RunStatus) -> None:
        """Close the record of a search that ended early, if MLflow answers."""
        if self._tracker is not None:
            with suppress(Exception):  # e.g. a full disk; the error that ended the search describes it better
                self._tracker.close(status)

    def _connected(self) -> Logs:
        if self._tracker is None:
            self._tracker = self._connect()
        return self._tracker

    def _try(self, act: Callable[[], None]) -> bool:
        """Whether `act` succeeded. Raises the errors of a full disk and of mistakes in this program."""
        began = self._clock()
        try:
            with quietly():  # MLflow reads at each call how long it is to try
                act()
        except Exception as error:
            if disk_is_full(error) or is_ours(error):
                raise
            now = self._clock()
            self.retry_at = now + max(PAUSE_S, PAUSE_SHARE * (now - began))
            log.exception("MLflow at %s failed", self._uri)
            if not self._behind:
                self._say(f"      MLflow at {self._uri} failed ({one_line(error)}); what it misses is logged later")
            self._behind = True
            return False
        if self._behind:
            self._say(f"      MLflow at {self._uri} answers again; all trials are logged")
        self._behind = False
        return True
