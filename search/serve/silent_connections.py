"""Closes connections on which no request comes: uvicorn has no time limit for the head of a request.

Its limit for connections that are kept open (`timeout_keep_alive`) ends with the first byte of the next request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

#: Seconds in which a connection must bring the whole head of a request.
HEAD_S = 20.0


class SilentConnections:
    """The connections of a server that have no open request, and since when.

    Args:
        connections: those of `uvicorn.Server.server_state`, which come and go.
        limit_s: seconds after which such a connection is closed.
    """

    def __init__(self, connections: Collection[Any], limit_s: float = HEAD_S) -> None:
        self._connections, self._limit_s = connections, limit_s
        self._since: dict[Any, tuple[Any, float]] = {}  # (its last request, seconds) by connection

    async def watch(self, every_s: float = 1.0) -> None:
        """Look every `every_s`, until it is cancelled."""
        while True:
            await asyncio.sleep(every_s)
            self.look(time.monotonic())

    def look(self, now_s: float) -> None:
        """Close the connections that have had no open request for too long."""
        since: dict[Any, tuple[Any, float]] = {}
        for connection in list(self._connections):
            last = getattr(connection, "cycle", None)
            if last is not None and not last.response_complete:
                continue  # it is being answered
            before, silent_s = self._since.get(connection, (last, now_s))
            since[connection] = (last, silent_s if before is last else now_s)
            silence_s = now_s - since[connection][1]
            if silence_s > 2 * self._limit_s:
                connection.transport.abort()  # it is closed, but for an answer that nobody reads
            elif silence_s > self._limit_s:
                connection.transport.close()
        self._since = since
