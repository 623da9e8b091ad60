"""The log of the controllers' switches: a line for each, and a row in the database."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time

from search.errors import one_line
from search.serve.controller import Switch
from search.serve.database.tables import now
from search.serve.fleet import Fleet
from search.serve.service import Service

log = logging.getLogger(__name__)


class SwitchLog:
    """Logs and stores every switch of a service's controllers, with its time and its reason."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts: dict[str, int] = {}  # switches up to the last look, by task

    async def watch(self, every_s: float = 0.5) -> None:
        """Look every `every_s`, and a last time when it is cancelled."""
        try:
            while True:
                await asyncio.sleep(every_s)
                self.look()
        except asyncio.CancelledError:
            try:
                self.look()
            except Exception as error:  # in the place of the cancellation it would keep the service from its end
                log.warning("the last switches are not stored: %s", one_line(error))
            raise

    def look(self) -> None:
        """Store and log the switches since the last look.

        Raises:
            WriterFullError: the database does not take them; the next look does them again.
        """
        for task, fleet in self._service.fleets.items():
            count, switches = fleet.dispatcher.look(lambda b: (b.controller.switch_count, list(b.controller.switches)))
            new = count - self._counts.get(task, 0)
            if not new:
                continue
            rows = _rows(fleet, switches[-new:])
            self._service.archive.switched(rows)
            self._counts[task] = count
            for row in rows:
                log.info("%s: from %s to %s: %s", task, row["before"], row["after"], row["reason"])
            if new > len(rows):  # a controller remembers so many
                log.warning("%s: %d earlier switches are not stored", task, new - len(rows))


def _rows(fleet: Fleet, switches: list[Switch]) -> list[dict[str, str | datetime.datetime]]:
    """Rows of the table `switches`. A switch has the time of a monotonic clock."""
    clock_s, wall = time.monotonic(), now()
    return [
        {
            "before": fleet.name(one.source or 0),
            "after": fleet.name(one.target),
            "reason": one.reason,
            "switched_at": wall - datetime.timedelta(seconds=clock_s - one.time_s),
        }
        for one in switches
    ]
