"""The service beyond its capacity, with models that fail, late stores and passages that go meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest
from services import LIMITS, embed, extract, fleet, is_problem, service, talk, variant
from sqlalchemy.exc import OperationalError

from search.serve.database.archive import NewPassage
from search.serve.dispatcher import RefusedError
from search.serve.fleet import EMBEDDING_TASK, Fleet, row_errors_apart
from search.serve.service import ANSWERING, CLASSIFYING, Service

CAT = "The cat sleeps on the mat. It is warm."
DOG = "A dog barks at the postman. Nobody knows why."


def test_above_its_capacity_the_service_refuses_at_once(tmp_path: Path) -> None:
    def slow(rows: Any) -> Any:
        time.sleep(0.2)
        return [{"answer": "a", "score": 1.0, "start": 0, "end": 1}] * len(rows)

    limits = type(LIMITS)(slo_s=0.5, max_batch=1)
    busy = Fleet(ANSWERING, "slow", [variant(1, 200.0, 0.9)], {1: slow}, limits)

    async def conversation(client: httpx.AsyncClient) -> None:
        bodies = [{"question": f"q{i}", "context": "some text"} for i in range(20)]
        answers = await asyncio.gather(*(client.post("/v1/answer", json=body) for body in bodies))
        statuses = {a.status_code for a in answers}
        assert statuses <= {200, 429, 504} and {200, 429} <= statuses
        assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 429)

    with service(tmp_path, busy) as backend:
        talk(backend, conversation)


def test_a_model_that_fails_is_a_problem_and_not_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(rows: Any) -> Any:
        raise RuntimeError("no memory at /secret/path")

    async def conversation(client: httpx.AsyncClient) -> None:
        assert (await client.get("/readyz")).status_code == 200
        content = is_problem(await client.post("/v1/answer", json={"question": "q", "context": "some text"}), 503)
        assert "/secret/path" not in json.dumps(content)
        unready = is_problem(await client.get("/readyz"), 503)
        assert unready["detail"] == "every variant of question-answering is out"
        fleets = (await client.get("/v1/variants")).json()["fleets"]
        assert [one["out"] for one in fleets[ANSWERING]["variants"]] == ["it failed"]

    with service(tmp_path, fleet(ANSWERING, broken, (1,))) as backend:
        talk(backend, conversation)
        assert backend.archive.history() == []
    assert "variant 1 failed: no memory at /secret/path" in caplog.text


def test_a_row_that_no_model_takes_fails_alone(tmp_path: Path) -> None:
    def picky(rows: Any) -> Any:
        if any(row == "bad" for row in rows):
            raise ValueError("a text must have at least one token")
        return [{"label": "fine", "score": 1.0} for _ in rows]

    async def conversation(client: httpx.AsyncClient) -> None:
        good, bad = await asyncio.gather(
            client.post("/v1/classify", json={"texts": ["good"] * 4}),
            client.post("/v1/classify", json={"texts": ["bad"]}),
        )
        assert good.status_code == 200 and is_problem(bad, 422)["detail"] == "a text must have at least one token"

    with service(tmp_path, fleet(CLASSIFYING, picky)) as backend:
        talk(backend, conversation)


def test_rows_of_a_request_that_fails_are_not_computed(tmp_path: Path) -> None:
    computed: list[str] = []

    def picky(rows: Any) -> Any:
        computed.extend(rows)
        time.sleep(0.05)
        raise ValueError("not this one")

    limits = type(LIMITS)(slo_s=5.0, max_batch=1)

    async def conversation(client: httpx.AsyncClient) -> None:
        is_problem(await client.post("/v1/classify", json={"texts": [str(i) for i in range(20)]}), 422)
        await asyncio.sleep(0.2)

    with service(tmp_path, fleet(CLASSIFYING, picky, limits=limits)) as backend:
        talk(backend, conversation)
    assert len(computed) < 5


def test_a_context_of_many_sentences_is_cut_and_one_of_too_many_refused(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        many = "It is so. " * 300 + "Zebras graze. " + "It is so. " * 99
        response = await client.post("/v1/answer", json={"question": "zebras graze", "context": many})
        assert response.json()["answer"] == "Zebras graze."
        content = is_problem(await client.post("/v1/answer", json={"question": "q", "context": "One. " * 501}), 422)
        assert content["detail"] == "context: must have at most 500 sentences, got 501"

    talk(served, conversation)


def test_one_deadline_holds_for_all_stages_of_a_request(tmp_path: Path) -> None:
    def slow(texts: Any) -> Any:
        time.sleep(0.1)
        return embed(texts)

    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"question": "q", "context": "One is. " * 200, "within_ms": 300}  # each of its slices is in time alone
        began = time.perf_counter()
        assert (await client.post("/v1/answer", json=body)).status_code in (429, 504)
        assert time.perf_counter() - began < 0.5

    with service(tmp_path, fleet(EMBEDDING_TASK, slow)) as backend:
        talk(backend, conversation)


def test_an_answer_that_is_not_stored_in_time_is_a_problem(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "store_s", 0.05)
    monkeypatch.setattr(served.archive, "answered", lambda new: Future())

    async def conversation(client: httpx.AsyncClient) -> None:
        is_problem(await client.post("/v1/answer", json={"question": "q", "context": CAT}), 503)

    talk(served, conversation)


def test_a_database_that_does_not_answer_is_a_problem_that_says_so(
    served: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise OperationalError("SELECT secret", {"question": "secret"}, Exception("the connection is closed"))

    monkeypatch.setattr(served.archive, "answered", fails)
    monkeypatch.setattr(served.archive, "history", fails)

    async def conversation(client: httpx.AsyncClient) -> None:
        for response in (
            await client.get("/v1/history"),
            await client.post("/v1/answer", json={"question": "q", "context": CAT}),
        ):
            assert is_problem(response, 503)["detail"] == "the database does not answer"
            assert response.headers["retry-after"] == "1"

    talk(served, conversation)
    assert "the connection is closed" in caplog.text and "secret" not in caplog.text


def test_a_passage_that_no_model_takes_keeps_no_other_from_being_found(tmp_path: Path) -> None:
    def picky(texts: Any) -> Any:
        if any("xyzzy" in text for text in texts):
            raise ValueError("a text must have at least one token")
        return [row * ("plugh" not in text) for row, text in zip(embed(texts), texts, strict=True)]

    with service(tmp_path, fleet(EMBEDDING_TASK, picky)) as backend:
        texts = (CAT, "xyzzy", DOG, "plugh")
        numbers = asyncio.run(backend.add_passages([NewPassage("s", i, text) for i, text in enumerate(texts)]))
        assert sorted(n for n, _ in backend.archive.embeddings("words")) == [numbers[0], numbers[2]]
        assert len(backend.index) == 2 and asyncio.run(backend.embed_missing()) == 0


def test_a_passage_that_is_removed_while_it_is_embedded_is_not_found(tmp_path: Path) -> None:
    begun, removed = threading.Event(), threading.Event()

    def waits(texts: Any) -> Any:
        begun.set()
        removed.wait(5)
        return embed(texts)

    async def run(backend: Service) -> None:
        adding = asyncio.create_task(backend.add_passages([NewPassage("s", 0, CAT)]))
        await asyncio.to_thread(begun.wait, 5)
        [passage] = backend.archive.passages()
        assert await backend.remove_passage(passage.id)
        removed.set()
        await adding
        assert len(backend.index) == 0

    with service(tmp_path, fleet(EMBEDDING_TASK, waits)) as backend:
        asyncio.run(run(backend))


def test_a_passage_with_the_number_of_one_that_was_removed_has_an_embedding_of_its_own(tmp_path: Path) -> None:
    begun, replaced = threading.Event(), threading.Event()

    def waits(texts: Any) -> Any:
        begun.set()
        replaced.wait(5)
        return embed(texts)

    async def run(backend: Service) -> None:
        adding = asyncio.create_task(backend.add_passages([NewPassage("s", 0, CAT)]))
        await asyncio.to_thread(begun.wait, 5)
        [before] = backend.archive.passages()
        assert await backend.remove_passage(before.id)
        assert backend.archive.add_passages([NewPassage("s", 0, DOG)]).result(5) == [before.id]  # SQLite gives it again
        replaced.set()
        await adding
        [(number, vector)] = backend.archive.embeddings("words")
        assert number == before.id and vector == pytest.approx(embed([DOG])[0], abs=1e-6)
        assert len(backend.index) == 1

    with service(tmp_path, fleet(EMBEDDING_TASK, waits)) as backend:
        asyncio.run(run(backend))


def test_passages_that_are_added_at_once_are_embedded_once(tmp_path: Path) -> None:
    begun, added = threading.Event(), threading.Event()
    embedded: list[str] = []

    def waits(texts: Any) -> Any:
        begun.set()
        added.wait(5)
        embedded.extend(texts)
        return embed(texts)

    async def run(backend: Service) -> None:
        first = asyncio.create_task(backend.add_passages([NewPassage("s", 0, CAT)]))
        await asyncio.to_thread(begun.wait, 5)
        second = asyncio.create_task(backend.add_passages([NewPassage("s", 1, DOG)]))
        await asyncio.sleep(0.2)
        added.set()
        await asyncio.gather(first, second)
        assert sorted(embedded) == sorted([CAT, DOG]) and len(backend.index) == 2

    with service(tmp_path, fleet(EMBEDDING_TASK, waits)) as backend:
        asyncio.run(run(backend))


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_a_bad_row_is_found_in_few_calls(kind: type[Exception]) -> None:
    calls: list[int] = []

    def picky(rows: Any) -> Any:
        calls.append(len(rows))
        if 13 in rows:
            raise kind("unlucky")
        return [str(row) for row in rows]

    answers = row_errors_apart({0: picky})(0, range(32))
    assert [one for i, one in enumerate(answers) if i != 13] == [str(i) for i in range(32) if i != 13]
    assert isinstance(answers[13], ValueError) and len(calls) == 11


def test_an_answer_over_a_passage_that_is_removed_meanwhile_is_sent_once_and_not_kept(tmp_path: Path) -> None:
    begun, removed = threading.Event(), threading.Event()

    def waits(rows: Any) -> Any:
        begun.set()
        removed.wait(5)
        return extract(rows)

    async def conversation(client: httpx.AsyncClient) -> None:
        [number] = (await client.post("/v1/passages", json={"text": CAT, "source": "cats"})).json()["ids"]
        asked = asyncio.create_task(client.post("/v1/answer", json={"question": "cat sleeps"}))
        await asyncio.to_thread(begun.wait, 5)
        assert (await client.delete(f"/v1/passages/{number}")).status_code == 204
        removed.set()
        assert (await asked).status_code == 200
        is_problem(await client.post("/v1/answer", json={"question": "cat sleeps"}), 404)
        [stored] = (await client.get("/v1/history")).json()["answers"]
        assert stored["passage"] is None

    with service(tmp_path, fleet(ANSWERING, waits)) as backend:
        talk(backend, conversation)


def test_a_service_that_closes_refuses_and_finishes_what_waits(extracting: Service) -> None:
    async def run() -> None:
        answers = [asyncio.create_task(extracting.answer(f"q{i}", "something", "r")) for i in range(10)]
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(asyncio.to_thread(extracting.close))
        assert all(one.answer == "something" for one in await asyncio.gather(*answers))
        await closing
        with pytest.raises(RefusedError, match="closing"):
            await extracting.answer("late", "something", "r")

    asyncio.run(run())
