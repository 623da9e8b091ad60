"""`python -m search serve`, the real command: kill -9, SIGTERM, keys, and wrong input."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Started, search

from search.cli.serve import LOOPBACK, serve
from search.serve.packaged_embedder import PACKAGED_MODEL
from search.serve.server import ServiceSettings

PACKAGE = PACKAGED_MODEL.removeprefix("package:").partition("/")[0]
EMPTY = ("--empty", "--slo-ms", "5000")
CONTEXT = "Herons stand in shallow water. Some nest in trees."


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def started(
    folder: Path, *options: str, anew: bool = False, path: str = "/readyz", within_s: float = 120.0
) -> Iterator[tuple[Started, httpx.Client]]:
    """The service on a free port, when `path` answers 200."""
    port = free_port()
    service = Started("serve", "--port", port, *options, cwd=folder, anew=anew)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            deadline = time.monotonic() + within_s
            while True:
                assert service.process.poll() is None and time.monotonic() < deadline, service.errors()
                with contextlib.suppress(httpx.TransportError):
                    if client.get(path).status_code == 200:
                        break
                time.sleep(0.1)
            yield service, client
    finally:
        service.kill_parent()
        ended = service.end()
    assert "Traceback" not in ended.out + ended.err


def rows_served(client: httpx.Client) -> float:
    """Rows that the embedding model has answered."""
    name = 'search_serve_rows_served_total{task="sentence-similarity"}'
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(line.split()[-1])


def test_answers_survive_kill_9_and_sigterm_ends_the_service_in_order(tmp_path: Path) -> None:
    with started(tmp_path, *EMPTY, anew=True) as (service, client):
        sent = []
        for i in range(10):
            reply = client.post(
                "/v1/answer", json={"question": f"Where do herons stand? {i}", "context": CONTEXT}
            ).json()
            assert reply["answer"] == "Herons stand in shallow water."
            sent.append(reply["id"])
        os.kill(service.process.pid, signal.SIGKILL)
    with started(tmp_path, *EMPTY) as (service, client):
        stored = {one["id"] for one in client.get("/v1/history").json()["answers"]}
        assert set(sent) <= stored
        added = client.post("/v1/passages", json={"text": CONTEXT, "source": "birds"})
        assert added.status_code == 201
        reply = client.post("/v1/answer", json={"question": "What nests in trees?"}).json()
        assert (reply["source"], reply["answer"]) == ("birds", "Some nest in trees.")
        assert client.get("/").status_code == 200 and "openapi" in client.get("/openapi.json").json()
        port = str(client.base_url.port)
        (tmp_path / "other").mkdir()
        taken = search("serve", "--port", port, cwd=tmp_path / "other")
        assert (
            taken.code == 2 and f"--host, --port: must be free and of this machine, got 127.0.0.1:{port}" in taken.err
        )
        second = search("serve", "--port", str(free_port()), cwd=tmp_path)
        assert second.code == 2 and "another service runs here" in second.err and second.err.count("\n") == 1
        replies, before = list[httpx.Response](), rows_served(client)
        lakes = " ".join(f"Some stand in lake {i}." for i in range(400))
        long = {"question": "Where do herons stand?", "context": lakes}
        asking = threading.Thread(target=lambda: replies.append(client.post("/v1/answer", json=long)))
        asking.start()
        while rows_served(client) == before:
            assert asking.is_alive()
            time.sleep(0.03)  # under the rate of a client
        os.kill(service.process.pid, signal.SIGTERM)
        assert service.process.wait(30) == 0
        asking.join(10)
        assert [reply.status_code for reply in replies] == [200]  # it is answered before the service ends


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"needs the packaged MiniLM ({PACKAGE})")
def test_the_default_starts_within_a_minute_and_answers_while_its_passages_are_embedded(tmp_path: Path) -> None:
    with started(tmp_path, path="/healthz", within_s=60.0) as (service, client):
        body = {"question": "Where do herons stand?", "context": CONTEXT, "within_ms": 20_000}
        assert client.post("/v1/answer", json=body).json()["answer"] == "Herons stand in shallow water."
        os.kill(service.process.pid, signal.SIGTERM)
        assert service.process.wait(30) == 0


def test_keys_are_made_once_shown_once_and_revoked(tmp_path: Path) -> None:
    result = search("serve", "--new-key", "me", cwd=tmp_path)
    assert result.code == 0 and result.out.strip().startswith("tcs_"), result.err
    assert result.out.strip().encode() not in (tmp_path / "mlruns" / "service" / "service.db").read_bytes()
    rotated = search("serve", "--new-key", "me", "--revoke-key", "me", cwd=tmp_path)  # one of the same name
    assert rotated.out.splitlines()[0] == "1 revoked" and rotated.out.splitlines()[1].startswith("tcs_"), rotated.err
    assert search("serve", "--revoke-key", "me", cwd=tmp_path).out.strip() == "1 revoked"
    again = search("serve", "--revoke-key", "me", cwd=tmp_path)
    assert again.code == 2 and again.err.strip() == "error: --revoke-key: no valid key has the name 'me'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "STUDY_OR_DIR: no exported front: none is no folder with a front.json and no study in"),
        (["../up"], "STUDY_OR_DIR: no exported front: ../up"),
        (["--port", "0"], "--port: must be a whole number from 1 to 65535, got 0"),
        (["--workers", "ray"], "--workers: must be thread or process, got ray"),
        (["--slo-ms", "soon"], "--slo-ms: must be a number of 1 or more, got soon"),
        (["--max-batch", "0"], "--max-batch: must be a whole number of 1 or more, got 0"),
        (["--max-batch", "1.5"], "--max-batch: must be a whole number of 1 or more, got 1.5"),
        (["--rate", "0"], "--rate: must be a number of 1 or more, got 0"),
        (["--database", "mysql://a:b@c/d"], "--database: must begin with sqlite:/// or postgresql://, got mysql://..."),
        (["--require-keys", "--without-keys"], "--without-keys: must be left out with --require-keys"),
        (["--new-key", " "], "--new-key: must be a name, got ' '"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = search("serve", *arguments, cwd=tmp_path)
    assert ended.code == 2 and message in ended.err and ended.err.count("\n") == 1, ended.err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"task": "classification"}', "[" * 10**5])
def test_a_folder_that_is_no_export_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "front.json").write_text(content)
    ended = search("serve", str(tmp_path), cwd=tmp_path)
    assert ended.code == 2 and f"{tmp_path}/front.json: not the front of an export" in ended.err


@pytest.mark.parametrize(
    ("options", "asks"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"keys": True}, True),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "127.0.0.1.example"}, True),
        ({"host": "0.0.0.0", "open_to_all": True}, False),
    ],
)
def test_keys_are_asked_for_beyond_the_loopback_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], asks: bool
) -> None:
    given: list[ServiceSettings] = []

    def run(settings: ServiceSettings) -> int:
        given.append(settings)
        return 0

    monkeypatch.setattr("search.serve.server.run", run)
    assert serve(mlruns=tmp_path, **options) == 0
    assert [settings.keys for settings in given] == [asks]
    assert given[0].local == (options.get("host", "127.0.0.1") in LOOPBACK)
