"""A client that sends requests at given times, whatever the answers take; `real_service.py` starts it as a process.

Reads one plan as JSON from its standard input, and prints one reply a request as JSON:

    {"port": 8000, "path": "/v1/answer", "bodies": ["{...}", ...], "at_s": [0.0, 0.013, ...]}      at these times
    {"port": 8000, "path": "/v1/answer", "bodies": [...], "callers": 16, "seconds": 8}             one after the other

Of a plan with `callers` each sends its next request when it has the answer to the last, bodies in turn. A reply is
[when it was due in seconds, status, milliseconds from then, text of the reply]; status 0: the connection broke.
Few lines, uvloop where it is installed, and a plain socket for a single caller: the client shares the machine with the
service, and its own time counts as the service's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import time
from typing import Any

#: Seconds after which a request is given up.
PATIENCE_S = 30.0

Reply = tuple[float, int, float, str]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Connections:
    """Connections to one service that are kept open; as many as requests are in flight."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self._idle: list[Streams] = []

    async def send(self, body: str) -> tuple[int, str]:
        """(status, text) of the reply; status 0: none came."""
        content = body.encode()
        head = f"{self._head}Content-Length: {len(content)}\r\n\r\n".encode()
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = self._kept() or await self._opened()
                writer.write(head + content)
                answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(answer.partition("content-length:")[2].partition("\r\n")[0])
                text = (await reader.readexactly(length)).decode()
        except (OSError, EOFError, TimeoutError):
            return 0, ""
        if "connection: close" not in answer:
            self._idle.append((reader, writer))
        return int(answer.split(" ", 2)[1]), text

    def _kept(self) -> Streams | None:
        """The connection that was used last, if it is open: a service closes those that are silent for long."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        return None

    async def _opened(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self._port)


async def at_times(plan: dict[str, Any], connections: Connections) -> list[Reply]:
    """Send each body at its time. Late sending counts as the service's time, since a client would have waited."""
    began = time.perf_counter() + 0.1

    async def one(due_s: float, body: str) -> Reply:
        status, text = await connections.send(body)
        return due_s, status, (time.perf_counter() - began - due_s) * 1e3, text

    tasks = []
    for due_s, body in zip(plan["at_s"], plan["bodies"], strict=True):
        wait_s = began + due_s - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(one(due_s, body)))
    return list(await asyncio.gather(*tasks))


async def in_turns(plan: dict[str, Any], connections: Connections) -> list[Reply]:
    """As many callers as the plan says, until its seconds are over."""
    began = time.perf_counter()
    bodies = iter(plan["bodies"])
    replies: list[Reply] = []

    async def caller() -> None:
        while (due_s := time.perf_counter() - began) < plan["seconds"] and (body := next(bodies, None)) is not None:
            status, text = await connections.send(body)
            replies.append((due_s, status, (time.perf_counter() - began - due_s) * 1e3, text))

    await asyncio.gather(*(caller() for _ in range(plan["callers"])))
    return replies


def one_by_one(plan: dict[str, Any]) -> list[Reply]:
    """A single caller. Raises OSError where the connection breaks."""
    path, port = plan["path"], plan["port"]
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    replies: list[Reply] = []
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        began = time.perf_counter()
        for body in plan["bodies"]:
            content = body.encode()
            request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
            if (due_s := time.perf_counter() - began) >= plan["seconds"]:
                break
            connection.sendall(request)
            answer = received(connection, b"", 0)
            start = answer.index(b"\r\n\r\n") + 4
            length = int(answer[:start].lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            answer = received(connection, answer, start + length)
            took_ms = (time.perf_counter() - began - due_s) * 1e3
            replies.append((due_s, int(answer.split(b" ", 2)[1]), took_ms, answer[start:].decode()))
    return replies


def received(connection: socket.socket, answer: bytes, length: int) -> bytes:
    """`answer` and what comes after it, up to `length` bytes at least; 0: up to the end of its head."""
    while len(answer) < length or (not length and b"\r\n\r\n" not in answer):
        block = connection.recv(65_536)
        if not block:
            raise ConnectionResetError("the service has closed the connection")
        answer += block
    return answer


def event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where that is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main() -> int:
    plan = json.load(sys.stdin)
    gc.disable()  # a pause of the client would be counted as the service's
    if plan.get("callers") == 1:
        replies = one_by_one(plan)
    else:
        connections = Connections(plan["port"], plan["path"])
        with asyncio.Runner(loop_factory=event_loop) as runner:
            replies = runner.run(at_times(plan, connections) if "at_s" in plan else in_turns(plan, connections))
    json.dump(replies, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
