"""Errors of the API as RFC 9457 problems: application/problem+json with type, title, status and detail."""

from __future__ import annotations

import logging
import math
from http.client import responses
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from search.errors import one_line
from search.serve.answers import NothingKnownError
from search.serve.database.writer import WriterFullError
from search.serve.dispatcher import ExpiredError, FailedError, RefusedError

log = logging.getLogger(__name__)

#: Most errors of one body that a problem lists.
SHOWN_ERRORS = 20
#: How the description of the API says that every error is a problem.
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457)",
        "content": {
            "application/problem+json": {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status", "detail"],
                    "properties": {
                        "type": {"type": "string"},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string"},
                    },
                }
            }
        },
    }
}

#: Errors of the service that `of` turns into problems.
KNOWN = (
    HTTPException,
    RefusedError,
    ExpiredError,
    FailedError,
    WriterFullError,
    OperationalError,
    NothingKnownError,
    ValueError,
)


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """A problem response, whose title is the phrase of its status; `more` are further members of its JSON."""
    content = {
        "type": "about:blank",
        "title": responses.get(status, "Error"),
        "status": status,
        "detail": detail,
        **more,
    }
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def retry_after(seconds: float) -> dict[str, str]:
    """The Retry-After header: whole seconds, 1 to 3600."""
    return {"Retry-After": str(max(1, math.ceil(min(seconds, 3600.0))))}


def ending() -> JSONResponse:
    """The problem response for a request that is not answered when the time of an ending service is over."""
    return problem(503, "the service ends before the request is answered", retry_after(1.0))


def of(error: Exception) -> JSONResponse:
    """The problem response for an error of the service; raises any other error."""
    match error:
        case HTTPException():
            return problem(error.status_code, str(error.detail), dict(error.headers or {}))
        case RefusedError():
            closed = error.refusal.reason in ("closing", "unavailable")
            return problem(503 if closed else 429, str(error), retry_after(error.retry_after_s))
        case ExpiredError():
            return problem(504, str(error), retry_after(1.0))
        case FailedError():
            return problem(503, "the models that should answer failed; they are tried again later", retry_after(1.0))
        case WriterFullError():
            return problem(503, str(error), retry_after(1.0))
        case OperationalError():
            log.warning("the database does not answer: %s", one_line(error))
            return problem(503, "the database does not answer", retry_after(1.0))
        case NothingKnownError():
            return problem(404, str(error))
        case ValueError():
            return problem(422, str(error))
    raise error


def fault(request: str) -> JSONResponse:
    """The problem response for a fault of the service."""
    return problem(500, f"request {request} failed; the service's log says why")


def install_problems(app: FastAPI) -> None:
    """Answer every error of the service as a problem."""

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        # A body may have any number of wrong keys, of any length.
        first = error.errors()[:SHOWN_ERRORS]
        errors = [{"at": ".".join(map(str, one["loc"]))[:200], "rule": one["msg"][:500]} for one in first]
        summary = "; ".join(f"{one['at']}: {one['rule']}" for one in errors[:5])
        return problem(422, summary, errors=errors)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return fault(request.state.request)

    async def known(request: Request, error: Exception) -> JSONResponse:
        return of(error)

    for kind in KNOWN:
        app.add_exception_handler(kind, known)
