"""HTTP by httptools (llhttp, in C), with the bound on a request's head that it does not have itself."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from search.serve.connection import ConnectedHttp

#: Most bytes of a request's line and headers.
MOST_HEAD = 65_536


class BoundedHttp(ConnectedHttp, HttpToolsProtocol):
    """uvicorn's protocol with `ConnectedHttp`; a head that is longer than `MOST_HEAD` is refused before it is whole.

    llhttp gives a header to its caller when all of it has come, so an endless one would fill the memory.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._in_head, self._head = False, 0
        super().__init__(*arguments, **options)

    def on_message_begin(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        # A block in which a head begins may have the body of the request before it.
        began_before = self._in_head
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head += len(data) if began_before else 0
        if self._head > MOST_HEAD:
            self.send_400_response(f"The head of a request has at most {MOST_HEAD} bytes.")
