"""Hostile input through the API and a real web server: refused as a problem or kept as it is; never a 5xx."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from services import TEXTS, Counting, causal, fleet, running, service

from search.serve.guard import Guarding
from search.serve.service import CLASSIFYING, Service

MOST = 2_000_000
CONTEXT = "herons stand in water"
#: Seconds that a body may take.
BODY_S = 1.0


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    labels = fleet(CLASSIFYING, lambda rows: [{"label": "a", "score": 1.0}] * len(rows))
    with service(tmp_path_factory.mktemp("hostile"), labels, causal(Counting()), extracting=True) as served:
        yield served


@pytest.fixture(scope="module")
def url(api: Service) -> Iterator[str]:
    with running(api, Guarding(rate=1e6, burst=1e6, body_s=BODY_S, local=True)) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as opened:
        yield opened
        assert opened.get("/healthz").json() == {"status": "ok"}, "the service does not live any more"
        body = {"question": "Who stands?", "context": CONTEXT}
        assert opened.post("/v1/answer", json=body).json()["answer"] == "herons"


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_answered_and_kept_as_it_is(client: httpx.Client, name: str) -> None:
    text = TEXTS[name]
    reply = client.post("/v1/answer", json={"question": text, "context": text + " " + CONTEXT}).json()
    assert reply["context"] == (text + " " + CONTEXT).strip()
    newest = client.get("/v1/history?limit=1").json()["answers"][0]
    assert newest["id"] == reply["id"] and newest["question"] == text.strip()
    assert client.post("/v1/classify", json={"texts": [text, {"text": text, "text_pair": text}]}).status_code == 200
    assert client.post("/v1/embed", json={"input": [text]}).status_code == 200
    added = client.post("/v1/passages", json={"text": text, "source": text[:500]})
    assert added.status_code == 201
    [number] = added.json()["ids"][:1]
    [row] = client.get(f"/v1/passages?after={number - 1}&limit=1").json()["passages"]
    assert row["source"] == text[:500].strip() and text.strip().startswith(row["text"].split()[0])
    for number in set(added.json()["ids"]):  # a long word is cut into pieces that are the same
        assert client.delete(f"/v1/passages/{number}").status_code == 204
    completed = client.post("/v1/completions", json={"prompt": text[:90], "max_tokens": 2})
    assert completed.json()["choices"][0]["text"] == "1 2 "


def ask(**more: Any) -> bytes:
    return json.dumps({"question": "q", "context": CONTEXT, **more}).encode()


JSON = "application/json"
FORM = "multipart/form-data; boundary=a"
#: What is sent to `/v1/answer`: (body, content type, the statuses that it may have).
BODIES: dict[str, tuple[bytes, str, tuple[int, ...]]] = {
    "nothing": (b"", JSON, (422,)),
    "half of it": (b'{"question": "a', JSON, (422,)),
    "broken UTF-8": (b'{"question": "\xff\xfe", "context": "a"}', JSON, (400, 422)),
    "overlong UTF-8": (b'{"question": "\xc0\xaf", "context": "a"}', JSON, (400, 422)),
    "a lone surrogate": (b'{"question": "\\ud800", "context": "aaaaaa bbbbbb"}', JSON, (200, 400, 422)),
    "NUL": (b'{"question": "a\\u0000b", "context": "\\u0000aaaaaa"}', JSON, (200,)),
    "NUL alone": (b'{"question": "\\u0000", "context": "aaaaaa"}', JSON, (200, 422)),
    "deep lists": (b"[" * 200_000, JSON, (400, 422)),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, JSON, (400, 422)),
    "a deep question": (b'{"question": ' + b"[" * 900 + b"]" * 900 + b"}", JSON, (400, 422)),
    "NaN": (ask(within_ms=float("nan")), JSON, (422,)),
    "infinity": (ask(within_ms=float("inf")), JSON, (422,)),
    "minus infinity": (ask(within_ms=float("-inf")), JSON, (422,)),
    "beyond doubles": (ask().replace(b"}", b', "within_ms": 1e999}'), JSON, (422,)),
    "a number of many digits": (ask().replace(b"}", b', "within_ms": ' + b"9" * 100_000 + b"}"), JSON, (400, 422)),
    "a boolean": (ask(question=True), JSON, (422,)),
    "a list": (b"[1, 2]", JSON, (422,)),
    "null": (b"null", JSON, (422,)),
    "a string": (b'"question"', JSON, (422,)),
    "keys twice": (b'{"question": "a", "question": "b", "context": "aaaaaa"}', JSON, (200,)),
    "many foreign keys": (b"{" + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}", JSON, (422,)),
    "a long foreign key": (ask(**{"k" * 500_000: 1}), JSON, (422,)),
    "foreign keys": (ask(**{"__proto__": {"a": 1}, "constructor": 1}), JSON, (422,)),
    "UTF-16": (ask().decode().encode("utf-16"), JSON, (200, 400, 422)),
    "a byte order mark": (b"\xef\xbb\xbf" + ask(), JSON, (200, 400, 422)),
    "compressed": (gzip.compress(ask()), JSON, (400, 422)),
    "a form": (b"question=a&context=b", "application/x-www-form-urlencoded", (422,)),
    "XML": (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "application/xml", (422,)),
    "no type": (ask(), "", (200, 422)),
    "a strange type": (ask(), "text/plain; charset=utf-7", (422,)),
    "a question too long": (ask(question="a" * 2001), JSON, (422,)),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_refused_as_a_problem(client: httpx.Client, name: str) -> None:
    body, kind, allowed = BODIES[name]
    response = client.post("/v1/answer", content=body, headers={"Content-Type": kind} if kind else {})
    assert response.status_code in allowed, response.text[:500]
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == response.status_code and len(response.content) < 20_000


@pytest.mark.parametrize("chunked", [False, True])
def test_ten_megabytes_are_refused(client: httpx.Client, chunked: bool) -> None:
    body = (b" " * 100_000 for _ in range(100)) if chunked else b" " * 10_000_000
    # The service answers before it has all of it, and closes: the client may find that while it writes.
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        response = client.post("/v1/answer", content=body, headers={"Content-Type": JSON})
        assert response.status_code == 413


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\windows\\system.ini",
        "/etc/passwd",
        "<img src=x>.txt",
        "a" * 10_000,
        "a\r\nb",
        "…",
        "%00",
    ],
)
def test_a_file_s_name_is_kept_as_a_text_alone(client: httpx.Client, name: str) -> None:
    added = client.post("/v1/passages/file", files={"file": (name, b"Salmon swim up the river.")})
    if added.status_code == 400 and len(name) > 1000:  # more than the head of a part may have
        return
    assert added.status_code == 201, added.text
    [number] = added.json()["ids"]
    [row] = client.get(f"/v1/passages?after={number - 1}&limit=1").json()["passages"]
    assert row["text"] == "Salmon swim up the river." and len(row["source"]) <= 500
    assert client.delete(f"/v1/passages/{number}").status_code == 204


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"--a\r\n", "multipart/form-data"),
        (b"no parts", FORM),
        (b'--a\r\nContent-Disposition: form-data; name="file"; filename="b"\r\n\r\nc', FORM),
        (b'--a\r\nContent-Disposition: form-data; name="other"\r\n\r\nc\r\n' * 2000 + b"--a--", FORM),
        (
            b'--a\r\nContent-Disposition: form-data; name="file"; filename="b"\r\n\r\n\xff\xfe\r\n--a--',
            FORM,
        ),
    ],
)  # fmt: skip
def test_a_broken_form_is_refused(client: httpx.Client, body: bytes, kind: str) -> None:
    response = client.post("/v1/passages/file", content=body, headers={"Content-Type": kind})
    assert response.status_code in (400, 422), response.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/../../../etc/passwd"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd"),
        ("GET", "/page.js/../../../pyproject.toml"),
        ("GET", "/page.js%00.html"),
        ("GET", "/%ff%fe"),
        ("DELETE", "/v1/passages/99999999999999999999999"),
        ("DELETE", "/v1/passages/-1"),
        ("DELETE", "/v1/passages/1%27%20OR%201=1"),
        ("GET", "/v1/history?before=NaN"),
        ("GET", "/v1/history?limit=1e9"),
        ("GET", "/v1/history?limit=" + "9" * 5000),
        ("GET", "/v1/passages?after=%00"),
        ("POST", "/v1/variants/99999999999999999999:pin"),
        ("POST", "/v1/variants/3:pin?task=%3Cscript%3E"),
        ("POST", "/v1/answers/%F0%9F%98%80/feedback"),
        ("TRACE", "/v1/answer"),
        ("GET", "/" + "a" * 20_000),
    ],
)
def test_a_path_reaches_nothing_else(client: httpx.Client, url: str, method: str, path: str) -> None:
    answer = raw(url, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
    assert 400 <= status_of(answer) < 500 and b"root:" not in answer and b"[project]" not in answer


#: Seconds without a byte after which an answer is over: the server of these tests sends it at once and whole.
PAUSE_S = 0.05


def raw(url: str, sent: bytes, wait_s: float = 5.0) -> bytes:
    """What a web server sends back for these bytes, until it pauses or closes."""
    parts = urlsplit(url)
    received = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=wait_s) as connection:
        connection.sendall(sent)
        try:
            while block := connection.recv(65536):
                received += block
                connection.settimeout(PAUSE_S)
        except (TimeoutError, ConnectionResetError):
            pass
    return received


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


@pytest.mark.parametrize(
    "headers",
    [
        "X-Request-ID: a\r\n Set-Cookie: hurt=1",
        "X-Request-ID: a%0d%0aSet-Cookie: hurt=1",
        "X-Request-ID: " + "a" * 5000,
        "X-Request-ID: \xff\xfe",
        "Content-Length: 0\r\nContent-Length: 50",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: -1",
        "Content-Length: 1e3",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: gzip, chunked",
        "A: " + "b" * 200_000,
        "Bad Header",
        "Authorization: Bearer \x00",
        "Host: evil.example",
        "Origin: null",
        "Expect: 200-maybe",
    ],
)
def test_headers_are_not_split_and_harm_nothing(client: httpx.Client, url: str, headers: str) -> None:
    request = f"POST /v1/variants:unpin HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n".encode("latin-1")
    answer = raw(url, request, wait_s=BODY_S + 2)
    assert status_of(answer) < 500 and b"set-cookie" not in answer.lower()


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"\r\n" * 1000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_what_is_no_request_ends_nothing(client: httpx.Client, url: str, sent: bytes) -> None:
    assert status_of(raw(url, sent, wait_s=0.5)) in (0, 400, 403, 404, 405)


def test_a_head_without_an_end_is_refused(client: httpx.Client, url: str) -> None:
    parts = urlsplit(url)
    sent = 0
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ")
        with contextlib.suppress(ConnectionError):
            while sent < 20_000_000:
                connection.sendall(b"a" * 10_000)
                sent += 10_000
    assert sent < 20_000_000


def test_slow_clients_keep_nobody_from_an_answer(client: httpx.Client, url: str) -> None:
    parts = urlsplit(url)
    head = b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    slow = [socket.create_connection((parts.hostname, parts.port)) for _ in range(50)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(head if number % 2 else b"GET /v1/history HT")
        began = time.monotonic()
        body = {"question": "who is there?", "context": CONTEXT}
        assert client.post("/v1/answer", json=body).json()["answer"] == "herons"
        assert time.monotonic() - began < 1.0
        slow[1].settimeout(BODY_S + 5)
        assert status_of(slow[1].recv(65536) or b"HTTP/1.1 400 closed") in (400, 408)
    finally:
        for connection in slow:
            connection.close()
