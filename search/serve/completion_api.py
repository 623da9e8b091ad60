"""`/v1/completions` and `/v1/chat/completions`, with the requests and responses of OpenAI's endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, Literal, Self

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import Field, StringConstraints, model_validator

from search.failures import Returned
from search.serve import problems
from search.serve.completer import COMPLETE_S, Asked, Completer, CompletionPart, Ending
from search.serve.prompts import Chat
from search.serve.schemas import TEXT, Strict

log = logging.getLogger(__name__)

Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
PromptText = Annotated[str, StringConstraints(min_length=1, max_length=TEXT)]
CompletionTokens = Annotated[int, Field(ge=1, le=8192)]
#: Called for each finished completion with its milliseconds and variant.
Done = Callable[[float, str], None]


class StreamOptions(Strict):
    """Options of a streamed response."""

    include_usage: bool = False


class CompletionOptions(Strict):
    """Sampling and stopping of a completion."""

    model: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = None
    within_ms: Annotated[float, Field(gt=0, le=600_000)] | None = None
    max_tokens: CompletionTokens = 16
    max_completion_tokens: CompletionTokens | None = None  # OpenAI's newer name of `max_tokens`

    @model_validator(mode="after")
    def _one_number_of_tokens(self) -> Self:
        """Both names have the value of the one that is given."""
        most = self.max_completion_tokens
        if most is None or most == self.max_tokens:
            return self
        if "max_tokens" in self.model_fields_set:
            both = f"{self.max_tokens} and {most}"
            raise ValueError(f"max_tokens and max_completion_tokens: must be the same where both are given, got {both}")
        self.max_tokens = most
        return self

    def asked(self, prompt: str | Chat, request: Request) -> Asked:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        within = COMPLETE_S if self.within_ms is None else self.within_ms / 1e3
        state = request.state
        return Asked(
            prompt,
            self.max_tokens,
            self.temperature,
            self.top_p,
            self.seed,
            tuple(stop),
            state.request,
            state.key_id,
            within,
        )


class Complete(CompletionOptions):
    """A request to complete a text."""

    prompt: PromptText


class Message(Strict):
    """A message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=TEXT)]


class CompleteChat(CompletionOptions):
    """A request to answer a chat."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]
    max_tokens: CompletionTokens = 256


class TextShape:
    """The response format of completions."""

    name, prefix, chunk = "text_completion", "cmpl", "text_completion"

    def whole(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def piece(self, text: str, first: bool) -> dict[str, Any]:
        return self.whole(text)


class Reply(TextShape):
    """The response format of chat completions."""

    name, prefix, chunk = "chat.completion", "chatcmpl", "chat.completion.chunk"

    def whole(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def piece(self, text: str, first: bool) -> dict[str, Any]:
        """Clients put a message together from these; the first names who speaks."""
        return {"delta": {**({"role": "assistant"} if first else {}), **({"content": text} if text else {})}}


def install_completions(app: FastAPI, completer: Completer | None, done: Done) -> None:
    """Add the routes to `app`; without a completer they answer 404."""

    def given() -> Completer:
        if completer is None:
            raise HTTPException(404, "no causal-lm study is served; name one when the service is started")
        return completer

    @app.post("/v1/completions")
    async def complete(body: Complete, request: Request) -> Response:
        """Complete a text, as OpenAI's completions endpoint does; with `stream` as server-sent events."""
        return await _answer(given(), body.asked(body.prompt, request), body, TextShape(), request, done)

    @app.post("/v1/chat/completions")
    async def reply(body: CompleteChat, request: Request) -> Response:
        """Answer a chat by the model's own template, as OpenAI's chat endpoint does."""
        messages = [message.model_dump() for message in body.messages]
        return await _answer(given(), body.asked(messages, request), body, Reply(), request, done)


async def _answer(
    completer: Completer, asked: Asked, body: CompletionOptions, shape: TextShape, request: Request, done: Done
) -> Response:
    parts = completer.parts(asked)
    about = {"id": f"{shape.prefix}-{asked.request}", "created": int(time.time())}
    try:
        if body.stream:
            # What fails before the first piece is a problem with its own status.
            first = await _unless_gone(request, anext(parts))
        else:
            ending = await _unless_gone(request, _ending(parts))
    except BaseException:
        await parts.aclose()
        raise
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = _events(first, parts, about, shape, usage, done)
        return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
    done(ending.milliseconds["total"], ending.variant)
    choice = {"index": 0, **shape.whole(ending.text), "logprobs": None, "finish_reason": ending.finish}
    content = {**about, "object": shape.name, "model": ending.variant, "choices": [choice], "usage": _usage(ending)}
    return JSONResponse({**content, "answer": ending.id, "milliseconds": ending.milliseconds})


async def _ending(parts: AsyncGenerator[CompletionPart, None]) -> Ending:
    async with contextlib.aclosing(parts):  # closed at once, so that the completion is counted before it is sent
        async for part in parts:
            if isinstance(part, Ending):
                return part
    raise AssertionError("a completion ends with its ending")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Returned]) -> Returned:
    """The result of `work`, which is cancelled if the client disconnects meanwhile."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(499, "the client has gone away")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _error(problem: Response) -> str:
    """A problem as an event; OpenAI's clients look for `error`."""
    content = json.loads(bytes(problem.body))
    told = {"message": content["detail"], "code": content["status"]}
    return f"event: error\ndata: {json.dumps({**content, 'error': told})}\n\n"


async def _events(
    first: CompletionPart,
    parts: AsyncGenerator[CompletionPart, None],
    about: dict[str, Any],
    shape: TextShape,
    usage: bool,
    done: Done,
) -> AsyncIterator[str]:
    """The events of a stream; an error in the middle is an event too, since the status is sent."""

    begun = False

    def event(part: CompletionPart, text: str, finish: str | None = None, **more: Any) -> str:
        nonlocal begun
        choice = {"index": 0, **shape.piece(text, not begun), "logprobs": None, "finish_reason": finish}
        begun = True
        more = {"usage": None, **more} if usage else more
        return _data({**about, "object": shape.chunk, "model": part.variant, "choices": [choice], **more})

    async with contextlib.aclosing(parts):
        part: CompletionPart | None = first
        try:
            while part is not None:
                if isinstance(part, Ending):
                    done(part.milliseconds["total"], part.variant)
                    yield event(part, "", part.finish, answer=part.id, milliseconds=part.milliseconds)
                    if usage:
                        usage_chunk = {
                            "object": shape.chunk,
                            "model": part.variant,
                            "choices": [],
                            "usage": _usage(part),
                        }
                        yield _data({**about, **usage_chunk})
                    yield "data: [DONE]\n\n"
                else:
                    yield event(part, part.text)
                part = await anext(parts, None)
        except problems.KNOWN as error:
            yield _error(problems.of(error))
        except asyncio.CancelledError:
            # The time to drain is over. A client that has gone itself gets nothing of this. The task is that of this
            # response alone and ends with it: raised again, the error would cut the stream before its end is sent.
            yield _error(problems.ending())
        except Exception:
            log.exception("completion %s failed", about["id"])
            failed = problems.problem(500, f"request {about['id']} failed; the service's log says why")
            yield _error(failed)


def _data(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _usage(ending: Ending) -> dict[str, Any]:
    total = ending.prompt_tokens + ending.tokens
    counts = {"prompt_tokens": ending.prompt_tokens, "completion_tokens": ending.tokens, "total_tokens": total}
    return {**counts, "prompt_tokens_details": {"cached_tokens": ending.reused}}
