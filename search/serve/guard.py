"""The guard of the API: size limits, keys, rate limits, request ids and security headers, as plain ASGI."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.serve.problems import ending, problem, retry_after

log = logging.getLogger(__name__)

#: Nothing but our own files; no frames, no plugins, no inline code, and no string that a script reads as HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
#: The same as pairs of an ASGI message, and all names that the guard sets.
GUARD_HEADERS = tuple((name.lower().encode(), value.encode()) for name, value in HEADERS.items())
GUARD_NAMES = {b"x-request-id", *(name for name, _ in GUARD_HEADERS)}
#: Files of the page by their path.
FILES = {
    "/": "index.html",
    "/docs": "docs.html",
    **{f"/{name}": name for name in ("page.css", "page.js", "front.js", "completion.js", "docs.js")},
}
#: Paths that need no key: health checks, and the page that asks for the key.
OPEN = ("/healthz", "/readyz", *FILES)
#: Request ids that a client may choose.
REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: Hosts of the loopback, with any port.
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
#: Methods that change nothing.
SAFE = ("GET", "HEAD", "OPTIONS")
#: Most clients whose rate is remembered.
CLIENTS = 10_000
#: Most digits of a Content-Length: Python converts no text of thousands of them.
LENGTH_DIGITS = 20


@dataclass(frozen=True)
class Guarding:
    """The limits that requests must keep."""

    max_body: int = 2_000_000  # bytes
    rate: float = 50.0  # requests a second of one key or address, on average
    burst: float = 100.0
    body_s: float = 15.0  # seconds in which a body must arrive, so that slow clients do not hold connections
    keys: bool = False  # whether a key is needed
    local: bool = False  # whether only the loopback is bound; other host names (DNS rebinding) are refused then


class Rate:
    """A token bucket for each client: `rate` requests per second, `burst` at once. Only for the event loop's thread."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """0 where this client may send a request now, else the seconds until it may."""
        now = self._clock()
        tokens, since = self._buckets.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[client] = (tokens - 1.0 if allowed else tokens, now)
        while len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._rate


def _foreign(method: str, headers: dict[bytes, bytes], local: bool) -> str | None:
    """Why a request without a key may come from a page of somebody else; None: it does not.

    A page reaches the loopback of who reads it by a name of its own that points there (DNS rebinding), or by a form.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if local and not LOCAL.fullmatch(host):
        return f"Host must be localhost, 127.0.0.1 or [::1], got {host[:100]}"
    origin = headers.get(b"origin")
    if method in SAFE or origin is None:
        return None
    if origin.decode("latin-1").lower().partition("://")[2] != host:
        return f"Origin must be of this service, {host[:100]}, got {origin.decode('latin-1')[:100]}"
    return None


class Guard:
    """The outermost ASGI application, which checks a request before `app` and adds headers to the response.

    Args:
        key_id: gives the number of a valid API key, or None.
        observe: called for each request with its route, status and seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        guarding: Guarding,
        key_id: Callable[[str], int | None],
        observe: Callable[[str, int, float], None],
    ) -> None:
        self._app, self._guarding, self._key_id, self._observe = app, guarding, key_id, observe
        self._rate = Rate(guarding.rate, guarding.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        header = headers.get(b"x-request-id", b"").decode("latin-1")
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request"] = header if REQUEST_ID.fullmatch(header) else secrets.token_hex(8)
        state["key_id"] = None
        began, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (*GUARD_HEADERS, (b"x-request-id", str(state["request"]).encode()))
                message["headers"] = [h for h in message.get("headers", []) if h[0].lower() not in GUARD_NAMES]
                message["headers"] += own
            await send(message)

        try:
            refusal = await self._refusal(scope, headers, state)
            if refusal is None:
                await self._app(scope, self._bounded(receive), answer)
            else:
                await refusal(scope, receive, answer)
        except asyncio.CancelledError:  # the web server ends what is open when the time to drain is over
            if not status:
                await ending()(scope, receive, answer)
            raise
        except Exception:  # the application has answered with a problem before it raises
            log.exception("request %s failed", state["request"])
        finally:
            took = time.perf_counter() - began
            # A path that is no route may be anything: it is neither counted by itself nor logged.
            route = str(getattr(scope.get("route"), "path", "none"))
            # After this turn of the event loop, at whose end uvloop sends what was written.
            values = (state["request"], scope["method"], route, status, took)
            asyncio.get_running_loop().call_soon(self._ended, *values)

    def _ended(self, request: str, method: str, route: str, status: int, seconds: float) -> None:
        """Count and log a request that has its response."""
        self._observe(route, status, seconds)
        log.info("%s %s %s %d %.1f ms", request, method, route, status, seconds * 1e3)

    @property
    def _too_large(self) -> str:
        return f"a body has at most {self._guarding.max_body} bytes"

    async def _refusal(
        self, scope: Scope, headers: dict[bytes, bytes], state: MutableMapping[str, Any]
    ) -> Response | None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return problem(400, "Content-Length must be a whole number")
        if len(length) > LENGTH_DIGITS or int(length) > self._guarding.max_body:
            return problem(413, self._too_large)
        foreign = None if self._guarding.keys else _foreign(scope["method"], headers, self._guarding.local)
        if foreign is not None:
            return problem(403, foreign)
        client = str((scope.get("client") or ("unknown",))[0])
        if self._guarding.keys and scope["path"] not in OPEN:
            scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
            try:
                number = await asyncio.to_thread(self._key_id, key.strip()) if scheme.lower() == "bearer" else None
            except Exception:
                log.exception("request %s: the key cannot be looked up", state["request"])
                return problem(503, "the database that has the keys does not answer", retry_after(1.0))
            if number is None:
                # Wrong keys are counted too: nobody tries many.
                wait = self._rate.wait_s(f"no key {client}")
                if wait:
                    return problem(429, "too many requests without a valid key", retry_after(wait))
                return problem(401, "send Authorization: Bearer KEY with a valid key", {"WWW-Authenticate": "Bearer"})
            state["key_id"] = number
            client = f"key {number}"
        wait = self._rate.wait_s(client) if scope["path"] not in OPEN else 0.0
        if wait:
            rule = f"at most {self._guarding.rate:g} requests a second of one client"
            return problem(429, rule, retry_after(wait))
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` that ends where a body is too large or too slow; what was declared may be wrong."""
        total = 0
        until = time.monotonic() + self._guarding.body_s
        whole = False

        async def bounded() -> Message:
            nonlocal total, whole
            if whole:
                return await receive()  # waits for the client to go
            try:
                # wait_for would run it in a task of its own.
                async with asyncio.timeout(max(0.001, until - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                return {"type": "http.disconnect"}
            total += len(message.get("body", b""))
            if total > self._guarding.max_body:
                raise HTTPException(413, self._too_large)
            whole = not message.get("more_body", False)
            return message

        return bounded
