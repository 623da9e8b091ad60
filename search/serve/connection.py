"""The connection of a request: work for a client that has gone away is given up, and what is not HTTP is a problem."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from search.serve.problems import problem

#: The status by which requests are counted whose client has gone away; nginx has introduced it.
GONE = 499


class Connection:
    """One connection; it serves one request at a time."""

    def __init__(self) -> None:
        #: Called when it is lost while a request is worked on.
        self.on_loss: Callable[[], object] | None = None

    def lost(self) -> None:
        """It is lost."""
        if self.on_loss is not None:
            self.on_loss()


@contextmanager
def while_connected(request: Request) -> Iterator[None]:
    """Cancel what this task awaits in the block when the client of its request goes away.

    A web server of another protocol than `ConnectedHttp` does not tell; the work is done then.

    Raises:
        HTTPException: 499, when the client has gone away.
    """
    connection: Connection | None = getattr(request.state, "connection", None)
    task = asyncio.current_task()
    if connection is None or task is None:
        yield
        return
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    connection.on_loss = leave
    try:
        yield
    except asyncio.CancelledError:
        # The server may have cancelled the task too, when the time to drain is over.
        if gone and not task.uncancel():
            raise HTTPException(GONE, "the client has gone away") from None
        raise
    finally:
        connection.on_loss = None


class ConnectedHttp(asyncio.Protocol):
    """What is added to uvicorn's protocols: each request has its `Connection`, and every error is a problem."""

    app: Any
    transport: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connection = Connection()
        self.app = partial(_connected, self.app, self._connection)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connection.lost()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and close the connection."""
        response = problem(400, msg, {"Connection": "close"})
        lines = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in response.raw_headers)]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body))
        self.transport.close()


def _connected(app: ASGIApp, connection: Connection, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    scope["state"]["connection"] = connection
    return app(scope, receive, send)
