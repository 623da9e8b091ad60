"""A whole service over fleets that answer at once, for tests of the API and of the page."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from http.client import responses
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from search.serve import generation_request
from search.serve.app import create_app
from search.serve.batching import Limits
from search.serve.database.archive import Archive
from search.serve.database.engine import open_engine, url_of
from search.serve.database.writer import Writer
from search.serve.fleet import CAUSAL_TASK, EMBEDDING_TASK, Fleet, load_fleet
from search.serve.generator import Piece
from search.serve.guard import Guarding
from search.serve.passage_index import Index
from search.serve.service import ANSWERING, Service
from search.serve.silent_connections import HEAD_S, SilentConnections
from search.serve.variants import Variant
from search.serve.web_runtime import event_loop, http_protocol

WORDS = 64
LIMITS = Limits(slo_s=5.0)


def embed(texts: Sequence[str]) -> list[np.ndarray]:
    """How often each word stands in a text, by the word's sum of characters."""
    rows = []
    for text in texts:
        row = np.full(WORDS, 1e-3, dtype=np.float32)
        for word in text.lower().split():
            row[sum(map(ord, word.strip(".,?!"))) % WORDS] += 1
        rows.append(row / np.linalg.norm(row))
    return rows


def extract(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """The first word of the context that is longer than five characters."""
    answers = []
    for row in rows:
        words = [word for word in row["context"].split() if len(word) > 5] or [""]
        start = row["context"].find(words[0])
        answers.append({"answer": words[0], "score": 0.5, "start": start, "end": start + len(words[0])})
    return answers


def variant(number: int, ms: float, quality: float) -> Variant:
    return Variant(number, quality, 100 * (1 - quality), ((1, ms / 1e3), (8, 4 * ms / 1e3)), 32)


def fleet(task: str, answer: Any, numbers: Sequence[int] = (0,), limits: Limits = LIMITS) -> Fleet:
    variants = [variant(n, 1.0 + 2 * i, 0.8 + 0.01 * i) for i, n in enumerate(numbers)]
    return Fleet(task, f"study-{task}", variants, dict.fromkeys(numbers, answer), limits, "metric")


class Counting:
    """A model that writes the words "1 2 3 ..." until `max_new_tokens`, slowly where told to."""

    def __init__(self, seconds: float = 0.0, fails_at: int = 0) -> None:
        self.seconds, self.fails_at = seconds, fails_at
        self.written = 0
        self.begun = threading.Event()

    def pieces(self, prompt: Any, *, max_new_tokens: int, stop: Any = (), **_: Any) -> Iterator[Piece]:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        if len(text) > 100:
            raise ValueError("a prompt must have at most 100 tokens, one less than the model's context, got more")
        for number in range(1, max_new_tokens + 1):
            self.begun.set()
            time.sleep(self.seconds)
            if number == self.fails_at:
                raise RuntimeError("no memory at /secret/path")
            if str(number) in stop:
                yield Piece("", len(text), number, "stop")
                return
            self.written += 1
            yield Piece(f"{number} ", len(text), number)
        yield Piece("", len(text), max_new_tokens, "length")


def causal(*models: Counting) -> Fleet:
    variants = [variant(i, 1.0 + i, 0.8 + 0.01 * i) for i in range(len(models))]
    answers = {i: generation_request.generating(model, i) for i, model in enumerate(models)}
    return Fleet(CAUSAL_TASK, "study-lm", variants, answers, generation_request.LIMITS, "perplexity")


@functools.cache
def _migrated() -> bytes:
    """The file of an empty database: `test_database` makes it by its migrations, and other tests copy this one."""
    with tempfile.TemporaryDirectory() as folder:
        open_engine(url_of(None, Path(folder))).dispose()  # the last connection that closes ends its log
        return Path(folder, "service.db").read_bytes()


@contextlib.contextmanager
def service(folder: Path, *more: Fleet, extracting: bool = False) -> Iterator[Service]:
    """A service with an empty store in `folder`."""
    file = folder / "service.db"
    if not file.exists():
        file.write_bytes(_migrated())
    engine = open_engine(url_of(None, folder))
    writer = Writer(engine)
    fleets = {EMBEDDING_TASK: fleet(EMBEDDING_TASK, embed), **{one.task: one for one in more}}
    if extracting:
        fleets[ANSWERING] = fleet(ANSWERING, extract, (3, 7))
    backend = Service(Archive(engine, writer), Index(folder / "embeddings", WORDS), "words", fleets)
    try:
        yield backend
    finally:
        backend.close()
        writer.close()
        engine.dispose()


#: Limits that no test reaches.
OPEN = Guarding(rate=1e6, burst=1e6)


def talk(
    backend: Service, conversation: Callable[[httpx.AsyncClient], Awaitable[None]], guarding: Guarding = OPEN
) -> None:
    async def run() -> None:
        transport = httpx.ASGITransport(app=create_app(backend, guarding), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            await conversation(client)

    asyncio.run(run())


def with_each_member(
    exported: Path, folder: Path, converse: Callable[[httpx.AsyncClient, int], Awaitable[None]]
) -> None:
    """Talk with a service of an exported front, once for each of its members, which is pinned meanwhile."""
    front = load_fleet(exported, Limits(slo_s=30.0), 4000.0)

    async def conversation(client: httpx.AsyncClient) -> None:
        for member in front.variants:
            assert (await client.post(f"/v1/variants/{member.number}:pin")).status_code == 204
            await converse(client, member.number)

    with service(folder, front) as backend:
        talk(backend, conversation)


def is_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = response.json()
    assert content["status"] == status and content["detail"]
    # RFC 9457, 4.2.1: a problem of no type of its own has the title of its status.
    assert (content["type"], content["title"]) == ("about:blank", responses[status])
    return content


@contextlib.contextmanager
def running(
    serving: Service,
    guarding: Guarding = OPEN,
    drain_s: int | None = None,
    silent_s: float = HEAD_S,
    http: type[asyncio.Protocol] | None = None,
) -> Iterator[str]:
    """The service behind a real web server; its address. At the end open requests have `drain_s` seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = create_app(serving, guarding)
    options: dict[str, Any] = {"log_config": None, "lifespan": "off", "timeout_graceful_shutdown": drain_s}
    config = uvicorn.Config(app, "127.0.0.1", port, http=http or http_protocol(), **options)
    server = uvicorn.Server(config)

    async def serve() -> None:
        closing = SilentConnections(server.server_state.connections, silent_s)
        watching = asyncio.create_task(closing.watch(every_s=min(silent_s / 5, 1.0)))
        await server.serve()
        watching.cancel()

    def run() -> None:
        with asyncio.Runner(loop_factory=event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def events(text: str) -> list[Any]:
    """What the events of a stream hold, the last one too."""
    blocks = [block for block in text.split("\n\n") if block]
    lines = [block.splitlines()[-1].removeprefix("data: ") for block in blocks]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


#: Texts that something might read as more than a text.
TEXTS = {
    "script": "<script>document.title='hurt'</script>",
    "attribute": "\"><img src=x onerror=alert(1)> '><svg onload=alert(1)>",
    "closed tags": "</p></main></textarea></title></script><script>alert(1)</script>",
    "link": "javascript:alert(1) [a](javascript:alert(1)) <a href='javascript:alert(1)'>a</a>",
    "frame": "<iframe srcdoc='<script>parent.document.title=1</script>'></iframe>",
    "template": "{{7*7}} ${7*7} <%= 7*7 %> #{7*7} ${jndi:ldap://127.0.0.1/a}",
    "sql": "'; DROP TABLE answers; -- ' OR '1'='1",
    "format": "%s%s%n {0.__class__} %(asctime)s",
    "shell": "$(touch /tmp/hurt) `touch /tmp/hurt` ; rm -rf /",
    "controls": "a\x01b\x07c\x08d\x1b[31mred\x1b[0m\x7f\x85",
    "direction": "user\u202egnp.exe\u2066 \u2069 \ufeff\u200b",
    "combining": "Z" + "\u0351\u0334\u0300" * 200,
    "lines": "a\r\nSet-Cookie: hurt=1\r\n\r\n<html>\u2028\u2029",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50,
    "long word": "x" * 1999,
    "noncharacters": "\ufffe\uffff\U0010ffff",
}
