"""HTTP by h11, where httptools is not installed; it bounds a request's head itself."""

from __future__ import annotations

from uvicorn.protocols.http.h11_impl import H11Protocol

from search.serve.connection import ConnectedHttp


class PlainHttp(ConnectedHttp, H11Protocol):
    """uvicorn's protocol with `ConnectedHttp`."""
