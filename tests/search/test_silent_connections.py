"""Connections that bring no request are closed; those that do are kept."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from services import running, service

from search.serve.silent_connections import SilentConnections

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER = b'{"status":"ok"}'


def answered(connection: socket.socket) -> bool:
    """Whether the request is answered; an answer may come in parts."""
    connection.sendall(REQUEST)
    received = b""
    while not received.endswith(ANSWER):
        part = connection.recv(65536)
        if not part:
            return False
        received += part
    return True


class Connection:
    """A connection of a server, as far as its requests are looked at."""

    def __init__(self) -> None:
        self.cycle: Any = None
        self.ended: list[str] = []
        self.transport = SimpleNamespace(
            close=lambda: self.ended.append("closed"), abort=lambda: self.ended.append("aborted")
        )


def test_the_time_counts_from_the_last_request() -> None:
    silent, kept, busy = Connection(), Connection(), Connection()
    busy.cycle = SimpleNamespace(response_complete=False)
    connections = {silent, kept, busy}
    watch = SilentConnections(connections, limit_s=10.0)
    for second in range(0, 31, 5):
        if second in (5, 10, 15):  # each is answered before the next look
            kept.cycle = SimpleNamespace(response_complete=True)
        watch.look(float(second))
    assert silent.ended == ["closed", "closed", "aborted", "aborted"]  # at 15 and 20, at 25 and 30
    assert kept.ended == ["closed"] and busy.ended == []  # 15 seconds after its last one


def test_a_real_server_closes_them(tmp_path: Path) -> None:
    with service(tmp_path) as backend, running(backend, silent_s=1.0) as url:
        parts = urlsplit(url)

        def connected() -> socket.socket:
            return socket.create_connection((parts.hostname, parts.port), timeout=10)

        with connected() as empty, connected() as half, connected() as second, connected() as kept:
            half.sendall(REQUEST[:20])
            assert answered(second)
            second.sendall(REQUEST[:20])
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                assert answered(kept)
                time.sleep(0.1)
            for one in (empty, half, second):
                assert one.recv(65536) == b""
