"""The API: answers, passages, history, variants, limits, keys and what hostile input does to it."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from services import LIMITS, embed, extract, fleet, service, variant

from search.serve.app import Live, create_app
from search.serve.database.archive import NewPassage
from search.serve.dispatcher import RefusedError
from search.serve.fleet import EMBEDDING, Fleet, row_errors_apart
from search.serve.guard import Guarding, Rate
from search.serve.service import ANSWERING, CLASSIFYING, Service

OPEN = Guarding(rate=1e6, burst=1e6)
CAT = "The cat sleeps on the mat. It is warm."
DOG = "A dog barks at the postman. Nobody knows why."


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path) as made:
        yield made


@pytest.fixture
def extracting(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path, extracting=True) as made:
        yield made


def talk(
    made: Service, conversation: Callable[[httpx.AsyncClient], Awaitable[None]], guarding: Guarding = OPEN
) -> None:
    async def run() -> None:
        transport = httpx.ASGITransport(app=create_app(made, guarding), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            await conversation(client)

    asyncio.run(run())


def is_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = response.json()
    assert content["status"] == status and content["title"] and content["detail"] and content["type"] == "about:blank"
    return content


def test_a_question_is_answered_by_the_nearest_sentence_of_the_passages(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        is_problem(await client.get("/v1/history?before=2147483648"), 422)
        is_problem(await client.post("/v1/answer", json={"question": "Where does the cat sleep?"}), 404)
        added = await client.post("/v1/passages", json={"text": CAT, "source": "cats"})
        assert added.status_code == 201
        await client.post("/v1/passages", json={"text": DOG, "source": "dogs"})
        response = await client.post("/v1/answer", json={"question": "Who barks at the postman?"})
        found = response.json()
        assert found["answer"] == "A dog barks at the postman." and found["source"] == "dogs"
        assert found["context"][found["start"] : found["end"]] == found["answer"]
        assert found["variant"] == "study-sentence-similarity/0" and not found["cached"]
        assert {"embed", "retrieve", "answer", "store", "total"} <= found["milliseconds"].keys()
        again = (await client.post("/v1/answer", json={"question": "Who barks at the postman?"})).json()
        assert again["cached"] and again["answer"] == found["answer"] and again["id"] > found["id"]
        history = (await client.get("/v1/history")).json()["answers"]
        assert [one["id"] for one in history] == [again["id"], found["id"]]
        [number] = added.json()["ids"]
        assert (await client.delete(f"/v1/passages/{number}")).status_code == 204
        is_problem(await client.delete(f"/v1/passages/{number}"), 404)
        left = (await client.get("/v1/passages")).json()
        assert [one["source"] for one in left["passages"]] == ["dogs"] and left["total"] == 1
        after = (await client.post("/v1/answer", json={"question": "Who barks at the postman?"})).json()
        assert not after["cached"]  # passages changed, so answers may

    talk(served, conversation)


def test_a_context_of_its_own_needs_no_passage(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"question": "What?", "context": "It is a warning to us."}
        found = (await client.post("/v1/answer", json=body)).json()
        assert (found["answer"], found["start"], found["end"]) == ("warning", 8, 15)
        assert found["passage"] is None and found["variant"].startswith("study-question-answering/")
        assert "embed" not in found["milliseconds"] and {"wait", "model"} <= found["milliseconds"].keys()

    talk(extracting, conversation)


def test_the_answering_fleet_reads_the_nearest_passages(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        for text, source in ((CAT, "cats"), (DOG, "dogs")):
            await client.post("/v1/passages", json={"text": text, "source": source})
        found = (await client.post("/v1/answer", json={"question": "cat sleeps mat"})).json()
        assert found["answer"] in ("sleeps", "postman.") and found["passage"] is not None

    talk(extracting, conversation)


def test_feedback_is_kept(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        number = (await client.post("/v1/answer", json={"question": "q", "context": "something"})).json()["id"]
        said = {"helpful": False, "comment": "no"}
        assert (await client.post(f"/v1/answers/{number}/feedback", json=said)).status_code == 204
        assert (await client.get("/v1/history")).json()["answers"][0]["feedback"] == said
        for unknown in (number + 1, 0, 2**40):
            is_problem(await client.post(f"/v1/answers/{unknown}/feedback", json=said), 404)

    talk(extracting, conversation)


def test_embeddings_are_as_openai_s(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        content = (await client.post("/v1/embed", json={"input": ["one two", "three"], "model": "any"})).json()
        assert content["object"] == "list" and [one["index"] for one in content["data"]] == [0, 1]
        np.testing.assert_allclose(
            [one["embedding"] for one in content["data"]], embed(["one two", "three"]), atol=1e-6
        )
        body = {"input": "one two", "encoding_format": "base64"}
        [one] = (await client.post("/v1/embed", json=body)).json()["data"]
        vector = np.frombuffer(base64.b64decode(one["embedding"]), dtype="<f4")
        np.testing.assert_allclose(vector, embed(["one two"])[0])

    talk(served, conversation)


def test_texts_are_classified_where_a_study_of_it_is_served(tmp_path: Path, served: Service) -> None:
    async def unserved(client: httpx.AsyncClient) -> None:
        is_problem(await client.post("/v1/classify", json={"texts": ["a"]}), 404)

    talk(served, unserved)
    (tmp_path / "more").mkdir()
    classes = fleet(
        CLASSIFYING, lambda rows: [{"label": "long" if len(r) > 3 else "short", "score": 1.0} for r in rows]
    )

    async def conversation(client: httpx.AsyncClient) -> None:
        results = (await client.post("/v1/classify", json={"texts": ["abcd", "a"]})).json()["results"]
        assert [one["label"] for one in results] == ["long", "short"]

    with service(tmp_path / "more", classes) as made:
        talk(made, conversation)


def test_a_variant_is_pinned_and_let_go(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        for number in (3, 7):
            assert (await client.post(f"/v1/variants/{number}:pin")).status_code == 204
            found = (await client.post("/v1/answer", json={"question": f"q{number}", "context": "something"})).json()
            assert found["variant"] == f"study-question-answering/{number}"
        content = is_problem(await client.post("/v1/variants/5:pin"), 404)
        assert content["detail"] == "variant must be one of 3, 7, got 5"
        is_problem(await client.post("/v1/variants/3:pin?task=none"), 404)
        shown = (await client.get("/v1/variants")).json()["fleets"][ANSWERING]
        assert shown["pinned"] == 7 and [one["number"] for one in shown["variants"]] == [3, 7]
        assert (await client.post("/v1/variants:unpin")).status_code == 204
        assert (await client.get("/v1/variants")).json()["fleets"][ANSWERING]["pinned"] is None

    talk(extracting, conversation)


def test_files_are_cut_into_passages_and_their_names_open_nothing(served: Service, tmp_path: Path) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        name = "../../../etc/passwd"
        text = " ".join(f"Sentence number {i} is here." for i in range(200))
        response = await client.post("/v1/passages/file", files={"file": (name, text.encode(), "text/plain")})
        assert response.status_code == 201 and len(response.json()["ids"]) > 3
        shown = (await client.get("/v1/passages")).json()["passages"]
        assert " ".join(one["text"] for one in shown) == text
        assert all(len(one["text"]) <= 900 for one in shown)
        for content in (b"\xff\xfe broken", b"", b"   "):
            is_problem(await client.post("/v1/passages/file", files={"file": ("a.txt", content, "text/plain")}), 422)

    talk(served, conversation)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "embeddings", "service.db", "service.db-wal", "service.db-shm"
    }  # fmt: skip


HOSTILE: list[Any] = [
    {},
    {"question": ""},
    {"question": "  \n "},
    {"question": None},
    {"question": ["q"]},
    {"question": "q" * 2001},
    {"question": "q", "context": ""},
    {"question": "q", "context": "c" * 50_001},
    {"question": "q", "other": 1},
    {"question": "q", "within_ms": 0},
    {"question": "q", "within_ms": -5},
    {"question": "q", "within_ms": "soon"},
    [],
    "text",
    None,
    17,
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: json.dumps(body)[:30])
def test_a_wrong_body_is_a_problem_that_says_where(extracting: Service, body: Any) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        content = is_problem(await client.post("/v1/answer", json=body), 422)
        assert content["errors"] and "body" in content["detail"]

    talk(extracting, conversation)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b'{"question": "\\ud800"}', b'{"question": "a\\u0000b"}', b"NaN"]
)
def test_broken_json_and_broken_text_fail_no_service(extracting: Service, content: bytes) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        headers = {"content-type": "application/json"}
        response = await client.post("/v1/answer", content=content, headers=headers)
        assert response.status_code in (404, 422), response.text
        is_problem(response, response.status_code)

    talk(extracting, conversation)


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script> fellow", "\u202eright-to-left override", "a\u0000bcdefg", "😀" * 40, "\x1b[31mescape"],
)
def test_hostile_text_is_answered_and_given_back_as_text(extracting: Service, text: str) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/answer", json={"question": text, "context": text})
        assert response.status_code == 200, response.text
        assert response.json()["context"] == text and response.headers["content-type"] == "application/json"

    talk(extracting, conversation)


@pytest.mark.parametrize("path", ["/nothing", "/v1/passages/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"])
def test_no_path_leads_out(served: Service, path: str) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        response = await client.get(path)
        assert response.status_code in (404, 405)
        assert "root:" not in response.text

    talk(served, conversation)


def test_a_large_body_is_refused_whatever_it_declares(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        is_problem(await client.post("/v1/passages", content=b"x" * 5000), 413)

        async def pieces() -> Any:
            for _ in range(50):
                yield b"x" * 100

        is_problem(await client.post("/v1/passages", content=pieces()), 413)

    talk(served, conversation, Guarding(max_body=1000))


def test_one_client_has_a_bounded_rate(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        answers = [await client.get("/v1/passages") for _ in range(6)]
        assert [a.status_code for a in answers] == [200] * 3 + [429] * 3
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert (await client.get("/healthz")).status_code == 200

    talk(served, conversation, Guarding(rate=0.01, burst=3))


def test_a_rate_is_per_client_and_fills_again() -> None:
    now = [0.0]
    rate = Rate(2.0, 2.0, lambda: now[0])
    assert [rate.wait_s("a") for _ in range(3)] == [0, 0, pytest.approx(0.5)]
    assert rate.wait_s("b") == 0
    now[0] = 0.5
    assert rate.wait_s("a") == 0 and rate.wait_s("a") > 0


def test_with_keys_only_the_page_and_health_are_open(served: Service) -> None:
    key = served.archive.make_key("me").result(5)

    async def conversation(client: httpx.AsyncClient) -> None:
        for path in ("/", "/page.js", "/page.css", "/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/v1/passages", "/v1/history", "/metrics", "/openapi.json", "/v1/status"):
            assert is_problem(await client.get(path), 401) and (await client.get(path)).headers["www-authenticate"]
        for wrong in ("Bearer", "Bearer x", f"Basic {key}", f"Bearer {key}x"):
            is_problem(await client.get("/v1/passages", headers={"authorization": wrong}), 401)
        assert (await client.get("/v1/passages", headers={"authorization": f"bearer {key}"})).status_code == 200

    talk(served, conversation, Guarding(keys=True, rate=1e6, burst=1e6))


def test_wrong_keys_are_slowed_down(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        statuses = [(await client.get("/v1/passages")).status_code for _ in range(4)]
        assert statuses == [401, 401, 429, 429]

    talk(served, conversation, Guarding(keys=True, rate=0.01, burst=2))


@pytest.mark.parametrize(
    ("host", "origin", "local", "refused"),
    [
        ("localhost:8000", None, True, False),
        ("127.0.0.1", "http://127.0.0.1", True, False),
        ("[::1]:8000", "http://[::1]:8000", True, False),
        ("evil.example:8000", None, True, True),
        ("127.0.0.1.evil.example", None, True, True),
        ("localhost:8000", "http://evil.example", True, True),
        ("localhost:8000", "null", True, True),
        ("localhost:8000", "http://localhost:9000", True, True),
        ("service.example", "https://service.example", False, False),
        ("service.example", "https://evil.example", False, True),
    ],
)
def test_pages_of_others_reach_no_service_without_keys(
    served: Service, host: str, origin: str | None, local: bool, refused: bool
) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        headers = {"host": host} | ({} if origin is None else {"origin": origin})
        response = await client.delete("/v1/passages/1", headers=headers)
        is_problem(response, 403 if refused else 404)

    talk(served, conversation, Guarding(local=local))


def test_keys_that_cannot_be_looked_up_are_a_problem(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(key: str) -> int | None:
        raise RuntimeError("inner detail")

    monkeypatch.setattr(served.archive, "key_id", fails)

    async def conversation(client: httpx.AsyncClient) -> None:
        response = await client.get("/v1/passages", headers={"authorization": "Bearer x"})
        assert "inner detail" not in json.dumps(is_problem(response, 503)) and "x-request-id" in response.headers

    talk(served, conversation, Guarding(keys=True))


def test_every_response_has_the_security_headers_and_an_id(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        for path in ("/", "/nothing", "/v1/passages?limit=0", "/healthz"):
            headers = (await client.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff" and len(headers["x-request-id"]) == 16
            assert "access-control-allow-origin" not in headers
        kept = await client.get("/healthz", headers={"x-request-id": "mine-1"})
        assert kept.headers["x-request-id"] == "mine-1"
        other = await client.get("/healthz", headers={"x-request-id": "no spaces"})
        assert other.headers["x-request-id"] != "no spaces"

    talk(served, conversation)


def test_neither_questions_nor_keys_are_logged(extracting: Service, caplog: pytest.LogCaptureFixture) -> None:
    key = extracting.archive.make_key("me").result(5)

    async def conversation(client: httpx.AsyncClient) -> None:
        headers = {"authorization": f"Bearer {key}"}
        await client.post(
            "/v1/answer", json={"question": "secret-question", "context": "secret-context"}, headers=headers
        )
        await client.get("/v1/secret-path", headers=headers)

    with caplog.at_level("INFO"):
        talk(extracting, conversation, Guarding(keys=True))
    told = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("search"))
    assert "/v1/answer 200" in told and "secret" not in told and key not in told


def test_a_fault_of_the_program_is_a_problem_without_its_details(
    served: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> Any:
        raise RuntimeError("inner detail")

    monkeypatch.setattr(served.archive, "history", fails)

    async def conversation(client: httpx.AsyncClient) -> None:
        content = is_problem(await client.get("/v1/history"), 500)
        assert "inner detail" not in json.dumps(content)

    talk(served, conversation)


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

    with service(tmp_path, busy) as made:
        talk(made, conversation)


def test_a_model_that_fails_is_a_problem_and_not_an_answer(tmp_path: Path) -> None:
    def broken(rows: Any) -> Any:
        raise RuntimeError("no memory at /secret/path")

    async def conversation(client: httpx.AsyncClient) -> None:
        content = is_problem(await client.post("/v1/answer", json={"question": "q", "context": "some text"}), 503)
        assert "/secret/path" not in json.dumps(content)

    with service(tmp_path, fleet(ANSWERING, broken, (1,))) as made:
        talk(made, conversation)
        assert made.archive.history() == []


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

    with service(tmp_path, fleet(CLASSIFYING, picky)) as made:
        talk(made, conversation)


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

    with service(tmp_path, fleet(CLASSIFYING, picky, limits=limits)) as made:
        talk(made, conversation)
    assert len(computed) < 5


def test_a_context_of_many_sentences_is_cut_and_one_of_too_many_refused(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        many = "It is so. " * 300 + "Zebras graze. " + "It is so. " * 99
        found = await client.post("/v1/answer", json={"question": "zebras graze", "context": many})
        assert found.json()["answer"] == "Zebras graze."
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

    with service(tmp_path, fleet(EMBEDDING, slow)) as made:
        talk(made, conversation)


def test_an_answer_that_is_not_stored_in_time_is_a_problem(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "store_s", 0.05)
    monkeypatch.setattr(served.archive, "answered", lambda new: Future())

    async def conversation(client: httpx.AsyncClient) -> None:
        is_problem(await client.post("/v1/answer", json={"question": "q", "context": CAT}), 503)

    talk(served, conversation)


def test_a_passage_that_no_model_takes_keeps_no_other_from_being_found(tmp_path: Path) -> None:
    def picky(texts: Any) -> Any:
        if any("xyzzy" in text for text in texts):
            raise ValueError("a text must have at least one token")
        return [row * ("plugh" not in text) for row, text in zip(embed(texts), texts, strict=True)]

    with service(tmp_path, fleet(EMBEDDING, picky)) as made:
        texts = (CAT, "xyzzy", DOG, "plugh")
        numbers = asyncio.run(made.add_passages([NewPassage("s", i, text) for i, text in enumerate(texts)]))
        assert sorted(n for n, _ in made.archive.embeddings("words")) == [numbers[0], numbers[2]]
        assert len(made.index) == 2 and asyncio.run(made.embed_missing()) == 0


def test_a_passage_that_is_removed_while_it_is_embedded_is_not_found(tmp_path: Path) -> None:
    begun, removed = threading.Event(), threading.Event()

    def waits(texts: Any) -> Any:
        begun.set()
        removed.wait(5)
        return embed(texts)

    async def run(made: Service) -> None:
        adding = asyncio.create_task(made.add_passages([NewPassage("s", 0, CAT)]))
        await asyncio.to_thread(begun.wait, 5)
        [passage] = made.archive.passages()
        assert await made.remove_passage(passage.id)
        removed.set()
        await adding
        assert len(made.index) == 0

    with service(tmp_path, fleet(EMBEDDING, waits)) as made:
        asyncio.run(run(made))


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


def test_the_rate_is_of_the_time_that_the_kept_answers_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("search.serve.app.time", SimpleNamespace(monotonic=lambda: now[0]))
    live = Live()
    for i in range(1000):
        now[0] = i / 100
        live.add(5.0, "v")
    assert live.shown()["per_s"] == pytest.approx(100, rel=0.01)
    now[0] = 100.0
    assert live.shown()["per_s"] == 0


def test_a_text_of_only_nul_is_no_passage(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        is_problem(await client.post("/v1/passages", json={"text": "\0 \0"}), 422)
        is_problem(await client.post("/v1/passages/file", files={"file": ("a.txt", b"\0\0", "text/plain")}), 422)
        assert (await client.post("/v1/passages", json={"text": "a\0b"})).status_code == 201
        assert [one["text"] for one in (await client.get("/v1/passages")).json()["passages"]] == ["ab"]

    talk(served, conversation)


def test_metrics_count_requests_rows_and_caches(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            await client.post("/v1/answer", json={"question": "q", "context": "something"})
        await client.get("/v1/anything/else")
        text = (await client.get("/metrics")).text
        assert 'requests_total{route="/v1/answer",status="200"} 2.0' in text
        assert 'requests_total{route="none",status="404"} 1.0' in text
        assert 'rows_served_total{task="question-answering"} 1.0' in text
        assert 'cache_hits_total{cache="answers"} 1.0' in text and "anything" not in text

    talk(extracting, conversation)


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

    with service(tmp_path, fleet(ANSWERING, waits)) as made:
        talk(made, conversation)


def test_a_service_that_closes_refuses_and_finishes_what_waits(extracting: Service) -> None:
    async def run() -> None:
        answers = [asyncio.create_task(extracting.answer(f"q{i}", "something", "r")) for i in range(10)]
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(asyncio.to_thread(extracting.close))
        assert all(one.text == "something" for one in await asyncio.gather(*answers))
        await closing
        with pytest.raises(RefusedError, match="closing"):
            await extracting.answer("late", "something", "r")

    asyncio.run(run())
