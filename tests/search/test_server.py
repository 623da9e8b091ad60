"""Starting a service: its fleets, its passages and its sockets, and the time that is kept for it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from services import WORDS, embed, extract, fleet, is_problem, variant

from search.errors import UserError
from search.serve.app import create_app
from search.serve.approximate import Approximate
from search.serve.batching import Limits, Refusal
from search.serve.database.archive import NewPassage
from search.serve.dispatcher import Deadline, ExpiredError, RefusedError
from search.serve.fleet import EMBEDDING_TASK, Fleet, embedding_limits, load_fleet
from search.serve.guard import Guarding
from search.serve.passage_index import Index
from search.serve.reserve import Reserve, handing_over_s
from search.serve.server import (
    Server,
    ServiceSettings,
    again,
    bound,
    embed_left,
    embedder_identity,
    fill_index,
    load_fleets,
    locked,
    seeds,
)
from search.serve.service import ANSWERING, Service
from search.serve.text_embedding import TextEmbedding
from search.serve.web_runtime import event_loop


def test_an_empty_store_is_filled_with_the_embedded_passages_and_is_ready_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.serve.server.load_fleets", lambda *_: {EMBEDDING_TASK: fleet(EMBEDDING_TASK, embed)})
    monkeypatch.setattr("search.serve.server.embedder_identity", lambda *_: ("words", WORDS))
    given = seeds()

    async def conversation(server: Server) -> None:
        transport = httpx.ASGITransport(create_app(server.service, Guarding(), server.ready))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            assert is_problem(await client.get("/readyz"), 503)["detail"] == "passages are being embedded"
            await server.prepare()
            assert (await client.get("/readyz")).json() == {"status": "ready"}
            reply = (await client.post("/v1/answer", json={"question": given[5].text[:200]})).json()
            assert NewPassage(reply["source"], 0, reply["context"]) in given
            await server.service.remove_passage(reply["passage"])
            await server.prepare()  # as after a restart: what was removed stays so
            assert len(server.index) == len(given) - 1

    server = Server(ServiceSettings((), tmp_path))
    try:
        asyncio.run(conversation(server))
    finally:
        server.close()


def test_passages_that_were_stored_while_the_model_was_busy_are_embedded_later(served: Service) -> None:
    class Busy(TextEmbedding):
        async def in_slices(self, texts: Sequence[str], deadline: Deadline, size: int | None = None) -> Any:
            served.embedding = TextEmbedding(served.fleets[EMBEDDING_TASK])  # the next time it is not
            raise RefusedError(Refusal("queue full", 0.1))

    async def run() -> None:
        with pytest.raises(RefusedError):
            await served.add_passages([NewPassage("s", 0, "Herons stand in shallow water.")])
        assert len(served.index) == 0
        later = asyncio.create_task(embed_left(served, every_s=0.01))
        while not len(served.index):
            await asyncio.sleep(0.01)
        later.cancel()

    served.embedding = Busy(served.fleets[EMBEDDING_TASK])
    asyncio.run(asyncio.wait_for(run(), 10))


def test_work_that_fails_is_logged_and_done_again(caplog: pytest.LogCaptureFixture) -> None:
    refused = RefusedError(Refusal("queue full", 0.1))
    errors: list[Exception] = [refused, RuntimeError("a fault"), ExpiredError("too late")]

    async def work() -> None:
        if errors:
            raise errors.pop(0)

    asyncio.run(again("the work", work, first_s=0.001))
    assert [record.getMessage().partition(" failed")[0] for record in caplog.records] == ["the work"] * 3
    assert not errors and "a fault" in caplog.text


def test_two_studies_of_one_task_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Fleet] = []

    def load(*_: Any, **__: Any) -> Fleet:
        loaded.append(fleet(ANSWERING, extract))
        return loaded[-1]

    monkeypatch.setattr("search.serve.server.load_fleet", load)
    with pytest.raises(UserError, match="one study per task"):
        load_fleets(ServiceSettings((tmp_path / "a", tmp_path / "b"), tmp_path), Limits())
    for one in loaded:  # both are closed
        with pytest.raises(RefusedError, match="closing"):
            one.dispatcher.submit({}, 1)


def test_a_service_that_cannot_start_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = fleet(EMBEDDING_TASK, embed)
    before = set(threading.enumerate())

    def fails(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr("search.serve.server.load_fleets", lambda *_: {EMBEDDING_TASK: embedding})
    monkeypatch.setattr("search.serve.server.embedder_identity", lambda *_: ("words", WORDS))
    monkeypatch.setattr("search.serve.server.fill_index", fails)
    with pytest.raises(OSError, match="no room"):
        Server(ServiceSettings((), tmp_path))
    with pytest.raises(RefusedError, match="closing"):
        embedding.dispatcher.submit("a", 1)
    assert not [one for one in threading.enumerate() if one.name == "database writer" and one not in before]
    locked(tmp_path).release()


def test_a_database_that_cannot_be_opened_fails_before_models_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr("search.serve.server.load_fleets", lambda *given: loaded.append(given))
    (tmp_path / "none.db").mkdir()
    with pytest.raises(UserError, match=r"--database: .* cannot be used"):
        Server(ServiceSettings((), tmp_path, database=f"sqlite:///{tmp_path}/none.db"))
    assert not loaded
    locked(tmp_path).release()


def test_an_embedding_fleet_has_time_for_eight_full_batches() -> None:
    one = variant(0, 10.0, 1.0)  # 10 ms for a row, 40 ms for eight
    assert embedding_limits(Limits(slo_s=5.0), one).slo_s == 5.0
    assert embedding_limits(Limits(slo_s=0.05, max_batch=8), one).slo_s == pytest.approx(0.32)


def test_a_stored_embedding_of_another_size_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = Index(tmp_path / "vectors", 2)
    fill_index(index, [(1, np.ones(2, np.float32)), (2, np.ones(3, np.float32)), (3, np.zeros(2, np.float32))])
    assert len(index) == 1 and [record.args[0] for record in caplog.records if record.args] == [2, 3]


def test_a_store_of_many_passages_is_clustered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    built: list[Approximate] = []

    def building(*arguments: Any) -> Approximate:
        built.append(Approximate(*arguments))
        return built[-1]

    monkeypatch.setattr("search.serve.passage_index.Approximate", building)
    index = Index(tmp_path / "vectors", 4, exact=100)
    vectors = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    fill_index(index, enumerate(vectors))
    assert [one.trained_on for one in built] == [500] and len(built[0]) == len(index) == 500


def test_a_model_of_another_study_in_the_place_of_a_member_is_refused(
    exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    front = json.loads((exported / "front.json").read_text())
    (tmp_path / "models").symlink_to(exported / "models")
    (tmp_path / "front.json").write_text(json.dumps({**front, "study": "other"}))
    rule = r"recipe\.yaml: must be of trial \d+ of study other \(classification\), as its front says, got trial"
    with pytest.raises(UserError, match=rule):
        load_fleet(tmp_path, Limits(), 1000)
    assert not caplog.records
    with pytest.raises(UserError, match=rule):
        load_fleet(tmp_path, Limits(), 0.5)
    assert "other: no member fits into 0.5 MB (--memory-mb); one of" in caplog.text


def test_a_front_without_members_is_refused(tmp_path: Path) -> None:
    workload = {"batch": 1, "length": 32}
    front = {"task": "classification", "study": "s", "metric": "accuracy", "workload": workload, "members": []}
    (tmp_path / "front.json").write_text(json.dumps(front))
    with pytest.raises(UserError, match="a front without members"):
        load_fleet(tmp_path, Limits(), 1000)
    (tmp_path / "front.json").write_text(json.dumps({**front, "task": "clasification"}))
    with pytest.raises(UserError, match=r'task: unknown task "clasification"; did you mean "classification"'):
        load_fleet(tmp_path, Limits(), 1000)


@pytest.mark.parametrize("loop", [event_loop, asyncio.new_event_loop])
def test_replies_are_sent_at_once_on_connections_that_stay_open(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def nodelay() -> int:
        options: list[int] = []

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # A socket of its own: that of uvloop's transport gives no options.
            with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as connection:
                options.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=bound("127.0.0.1", 0)) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await reader.read()
            writer.close()
        return options[0]

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(nodelay()) != 0


def test_time_is_kept_for_what_follows_the_model() -> None:
    reserve = Reserve()
    random = np.random.default_rng(0)
    taken = random.gamma(9.0, 1e-3, 2000)
    for seconds in taken:
        reserve.observe(seconds)
    reserved_s = 0.2 - reserve.left_s(0.2)
    assert 0.95 < np.mean(taken < reserved_s) < 1.0
    assert reserve.left_s(0.02) == pytest.approx(0.015)


def test_handing_over_is_what_neither_the_queue_nor_the_model_took() -> None:
    assert handing_over_s({"answer": 12.0, "wait": 3.0, "model": 7.5}) == pytest.approx(0.0015)
    assert handing_over_s({"answer": 12.0, "embed": 4.0}) == 0.0  # stages of the embedding fleet are not divided


def test_the_model_that_embeds_is_found_by_its_task_where_two_studies_have_one_name(tmp_path: Path) -> None:
    folders = [tmp_path / "answering", tmp_path / "embedding"]
    embedding = fleet(EMBEDDING_TASK, embed)
    for folder, task in zip(folders, (ANSWERING, EMBEDDING_TASK), strict=True):
        (folder / "models" / "0").mkdir(parents=True)
        (folder / "front.json").write_text(json.dumps({"study": embedding.study, "task": task}))
        (folder / "models" / "0" / "recipe.yaml").write_text(task)
    try:
        digest, size = embedder_identity(embedding, ServiceSettings(tuple(folders), tmp_path))
    finally:
        embedding.close()
    assert (digest, size) == (hashlib.sha256(EMBEDDING_TASK.encode()).hexdigest()[:16], WORDS)


@pytest.mark.parametrize("host", ["ä..b", "ä" * 64, "nowhere.invalid"])
def test_a_name_that_is_no_host_is_the_users_mistake(host: str) -> None:
    with pytest.raises(UserError, match=f"--host, --port: must be free and of this machine, got {host}:8000 "):
        bound(host, 8000)
