"""`POST /v1/answer` without the layers of FastAPI, which a question on an idle service would wait for.

FastAPI leads a request through a dozen applications to its route, reads JSON into objects, validates these against the
signature, and validates the reply again. Here pydantic reads the body and writes the reply, once each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.serve import problems
from search.serve.answers import Answer
from search.serve.schemas import Ask

PATH = "/v1/answer"
JSON = b"application/json"
ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


class DirectAnswers:
    """The ASGI application `app`, but for a right `POST /v1/answer`, which is answered here.

    What is wrong with the body of another one FastAPI finds and says.

    Args:
        answer: the endpoint of its route.
    """

    path = PATH  # as a route has it, by which requests are counted

    def __init__(self, app: ASGIApp, answer: Callable[[Ask, Request], Awaitable[Answer]]) -> None:
        self._app, self._answer = app, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST" or not _is_json(scope):
            await self._app(scope, receive, send)
            return
        scope["route"], request, messages = self, Request(scope, receive), list[Message]()
        try:
            asked = _read(await _body(receive, messages))
            reply = None if asked is None else await self._answer(asked, request)
        except problems.KNOWN as error:
            await problems.of(error)(scope, receive, send)
            return
        except Exception:
            await problems.fault(request.state.request)(scope, receive, send)
            raise
        if reply is None:
            await self._app(scope, _again(messages, receive), send)
            return
        content = ANSWER.dump_json(reply)
        headers = [(b"content-length", b"%d" % len(content)), (b"content-type", JSON)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def _is_json(scope: Scope) -> bool:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    kind = next((value for name, value in headers if name == b"content-type"), b"")
    return kind.partition(b";")[0].strip().lower() == JSON


async def _body(receive: Receive, messages: list[Message]) -> bytes | None:
    """The body of a request, None where its client has gone; all messages are added to `messages`."""
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        messages.append(message)
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _read(body: bytes | None) -> Ask | None:
    """The question in a body, None where there is none."""
    if body is None:
        return None
    try:
        return Ask.model_validate_json(body)
    except ValidationError:
        return None


def _again(messages: Iterable[Message], receive: Receive) -> Receive:
    """`receive` that gives the messages once more, then those that come."""
    given = iter(messages)

    async def again() -> Message:
        message: Any = next(given, None)
        return await receive() if message is None else message

    return again
