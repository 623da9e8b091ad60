"""What a client does to its connection: one that goes away leaves the queue, and what is not HTTP is a problem."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from services import extract, fleet, is_problem, running, service

from search.serve.batching import Limits
from search.serve.fleet import EMBEDDING_TASK
from search.serve.http_protocol import BoundedHttp
from search.serve.plain_http import PlainHttp
from search.serve.service import ANSWERING, CLASSIFYING

PROTOCOLS = pytest.mark.parametrize("protocol", [BoundedHttp, PlainHttp])
REQUESTS = {
    ("/v1/answer", ANSWERING): {"question": "left", "context": "some longer text"},
    ("/v1/classify", CLASSIFYING): {"texts": ["left"]},
    ("/v1/embed", EMBEDDING_TASK): {"input": ["left"]},
}


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def post(path: str, body: Any) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def until(true: Callable[[], bool], within_s: float = 10.0) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)


@PROTOCOLS
@pytest.mark.parametrize(("path", "task"), REQUESTS)
def test_a_request_whose_client_has_gone_leaves_the_queue(
    path: str, task: str, protocol: type[asyncio.Protocol], tmp_path: Path
) -> None:
    free, computed = threading.Event(), list[Any]()

    def model(rows: Any) -> Any:
        computed.extend(rows)
        assert free.wait(10)
        return extract([{"context": "some text"}] * len(rows))

    busy = fleet(task, model, limits=Limits(slo_s=5.0, max_batch=1))
    queue = busy.dispatcher
    with service(tmp_path, busy) as backend, running(backend, http=protocol) as url:
        running_row = queue.submit({"question": "first", "context": "some longer text"}, 8)
        until(lambda: len(computed) == 1)
        with connected(url) as leaving:
            leaving.sendall(post(path, REQUESTS[path, task]))
            until(lambda: queue.look(lambda batcher: batcher.waiting) == 1)
        until(lambda: queue.look(lambda batcher: batcher.waiting) == 0)
        free.set()
        running_row.result(10)
        counted = f'search_serve_requests_total{{route="{path}",status="499"}} 1.0'
        until(lambda: counted in httpx.get(f"{url}/metrics").text)
        assert len(computed) == 1


@PROTOCOLS
def test_what_is_not_http_is_a_problem(protocol: type[asyncio.Protocol], tmp_path: Path) -> None:
    endless = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 200_000
    with service(tmp_path) as backend, running(backend, http=protocol) as url:
        for sent in (b"no request at all\r\n\r\n", endless):
            with connected(url) as client:
                client.sendall(sent)
                reply = HTTPResponse(client)
                reply.begin()
                content = reply.read()
            assert reply.will_close
            is_problem(httpx.Response(reply.status, headers=reply.getheaders(), content=content), 400)
