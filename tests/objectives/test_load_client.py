"""The client of the service's benchmark: what it reports is the service's doing, and not its own."""

from __future__ import annotations

import asyncio

from benchmarks.load_client import Connections


def test_a_connection_that_the_service_has_closed_is_not_used_again() -> None:
    """A service may close a connection that is silent for long; a request on it would count as lost."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def twice() -> list[tuple[int, str]]:
        async with await asyncio.start_server(once, "127.0.0.1", 0) as server:
            connections = Connections(server.sockets[0].getsockname()[1], "/")
            replies = [await connections.send("{}")]
            await asyncio.sleep(0.1)  # until the client has been told
            return [*replies, await connections.send("{}")]

    assert asyncio.run(twice()) == [(200, "{}"), (200, "{}")]
