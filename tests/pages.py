"""The service's page: a web server for it, and what tests do on it in a browser."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn

from search.serve.app import create_app
from search.serve.guard import Guarding
from search.serve.service import Service

WebDriverException = pytest.importorskip("selenium.common").WebDriverException


class Running:
    """A web server in a thread."""

    def __init__(self, backend: Service, guarding: Guarding) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = uvicorn.Config(create_app(backend, guarding), "127.0.0.1", self.port, log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.02)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def find(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def until(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `true` gives as soon as that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if result := true():
                return result
        except WebDriverException:  # what is looked for is not there yet, or was drawn anew
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come to be")


def ask(page: Any, question: str, context: str = "") -> Any:
    if context:
        page.execute_script("document.querySelector('details').open = true")
        find(page, "#context").clear()
        find(page, "#context").send_keys(context)
    field = find(page, "#question")
    field.clear()
    field.send_keys(question + "\n")
