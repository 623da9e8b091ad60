"""The route of `POST /v1/answer`: pydantic reads the body and writes the reply, once each."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from search.serve.answers import Answer
from search.serve.schemas import Ask

JSON = "application/json"
ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


class AnswerRoute(APIRoute):
    """A route whose endpoint takes (`Ask`, the request) and returns an `Answer`.

    FastAPI reads JSON into objects, validates these against the signature, and validates the reply again. This route
    leaves a body that is right to pydantic alone. What is wrong with another one FastAPI finds and says.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        general = super().get_route_handler()
        endpoint = self.endpoint

        async def handler(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
                return await general(request)
            try:
                body = Ask.model_validate_json(await request.body())
            except (ValidationError, ClientDisconnect):
                return await general(request)
            return Response(ANSWER.dump_json(await endpoint(body, request)), media_type=JSON)

        return handler
