"""The event loop and the HTTP protocol of the web server: uvloop and httptools, both in C, where they are installed."""

from __future__ import annotations

import asyncio
import logging

log = logging.getLogger(__name__)


def event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop: uvloop's, or asyncio's own where that is not installed (it does not run on Windows)."""
    try:
        import uvloop
    except ModuleNotFoundError:
        log.info("uvloop is not installed: asyncio's event loop serves, which is slower")
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def http_protocol() -> type[asyncio.Protocol]:
    """What reads requests and writes responses: httptools, or h11 where that is not installed."""
    try:
        from search.serve.http_protocol import BoundedHttp
    except ModuleNotFoundError:
        log.info("httptools is not installed: h11 reads requests, which is slower")
        from search.serve.plain_http import PlainHttp

        return PlainHttp
    return BoundedHttp
