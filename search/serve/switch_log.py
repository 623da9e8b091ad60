"""The log of the controllers' switches: a line for each, and a row in the database."""

from __future__ import annotations

import asyncio
import logging

from search.serve.service import Service

log = logging.getLogger(__name__)


class SwitchLog:
    """Logs and stores the switches of a service's controllers; several between two looks are stored as one."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts: dict[str, int] = {}  # switches at the last look, by task

    async def watch(self, every_s: float = 0.5) -> None:
        """Look every `every_s`, and a last time when it is cancelled."""
        try:
            while True:
                await asyncio.sleep(every_s)
                self.look()
        finally:
            self.look()

    def look(self) -> None:
        """Log and store the switches since the last look."""
        for task, fleet in self._service.fleets.items():
            counts = self._counts
            count, moves = fleet.dispatcher.look(lambda b: (b.controller.switch_count, list(b.controller.switches)))
            new = moves[-(count - counts.get(task, 0)) :] if count > counts.get(task, 0) else []
            counts[task] = count
            if new and new[0].source != new[-1].target:
                before, after = fleet.name(new[0].source or 0), fleet.name(new[-1].target)
                log.info("%s: from %s to %s: %s", task, before, after, new[-1].reason)
                self._service.archive.switched(before, after, new[-1].reason)
