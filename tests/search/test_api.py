"""The API: answers, passages, history, feedback, embeddings, classes, variants and metrics."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from services import embed, fleet, is_problem, service, talk

from search.serve.app import RecentTimes
from search.serve.batching import Limits
from search.serve.fleet import EMBEDDING_TASK, Fleet
from search.serve.guard import Guarding
from search.serve.service import ANSWERING, CLASSIFYING, Service
from search.serve.variants import Variant
from search.serve.windows import WindowSettings

CAT = "The cat sleeps on the mat. It is warm."
DOG = "A dog barks at the postman. Nobody knows why."


def test_a_question_is_answered_by_the_nearest_sentence_of_the_passages(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        is_problem(await client.get("/v1/history?before=2147483648"), 422)
        is_problem(await client.post("/v1/answer", json={"question": "Where does the cat sleep?"}), 404)
        added = await client.post("/v1/passages", json={"text": CAT, "source": "cats"})
        assert added.status_code == 201
        await client.post("/v1/passages", json={"text": DOG, "source": "dogs"})
        response = await client.post("/v1/answer", json={"question": "Who barks at the postman?"})
        reply = response.json()
        assert reply["answer"] == "A dog barks at the postman." and reply["source"] == "dogs"
        assert reply["context"][reply["start"] : reply["end"]] == reply["answer"]
        assert reply["variant"] == "study-sentence-similarity/0" and not reply["cached"]
        assert {"embed", "retrieve", "answer", "store", "total"} <= reply["milliseconds"].keys()
        again = (await client.post("/v1/answer", json={"question": "Who barks at the postman?"})).json()
        assert again["cached"] and again["answer"] == reply["answer"] and again["id"] > reply["id"]
        history = (await client.get("/v1/history")).json()["answers"]
        assert [one["id"] for one in history] == [again["id"], reply["id"]]
        [number] = added.json()["ids"]
        assert (await client.delete(f"/v1/passages/{number}")).status_code == 204
        is_problem(await client.delete(f"/v1/passages/{number}"), 404)
        left = (await client.get("/v1/passages")).json()
        assert [one["source"] for one in left["passages"]] == ["dogs"] and left["total"] == 1
        after = (await client.post("/v1/answer", json={"question": "Who barks at the postman?"})).json()
        assert not after["cached"]  # passages changed, so answers may

    talk(served, conversation)


def test_every_content_type_of_json_has_the_same_answer(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        replies = []
        for kind in ("application/json", "Application/JSON; charset=utf-8", "application/vnd.question+json"):
            content = json.dumps({"question": "What?", "context": f"It is a warning to us, {kind}."})
            response = await client.post("/v1/answer", content=content, headers={"content-type": kind})
            assert response.status_code == 200 and response.headers["content-type"] == "application/json"
            replies.append(response.json())
        assert [(one["answer"], one["start"], one["cached"]) for one in replies] == [("warning", 8, False)] * 3
        assert len({tuple(one) for one in replies}) == 1
        wrong = [await client.post("/v1/answer", json=body) for body in ({}, {"question": "a", "other": 1})]
        assert [is_problem(one, 422)["errors"][0]["at"] for one in wrong] == ["body.question", "body.other"]
        described = (await client.get("/openapi.json")).json()["paths"]["/v1/answer"]["post"]
        reply = described["responses"]["200"]["content"]["application/json"]["schema"]
        assert reply == {"$ref": "#/components/schemas/Answer"} and "requestBody" in described

    talk(extracting, conversation)


def test_a_body_that_comes_in_pieces_is_read_once_however_it_ends(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        async def post(text: str) -> httpx.Response:
            async def pieces() -> Any:
                for at in range(0, len(text), 10):
                    yield text[at : at + 10].encode()

            return await client.post("/v1/answer", content=pieces(), headers={"content-type": "application/json"})

        right = await post(json.dumps({"question": "What?", "context": "It is a warning to us."}))
        assert right.json()["answer"] == "warning" and int(right.headers["content-length"]) == len(right.content)
        wrong = await post(json.dumps({"question": "What?", "context": "It is a warning to us.", "other": 1}))
        assert is_problem(wrong, 422)["errors"][0]["at"] == "body.other"
        is_problem(await post(json.dumps({"question": "q", "context": "c" * 5000})), 413)

    talk(extracting, conversation, Guarding(max_body=1000, rate=1e6, burst=1e6))


def test_a_context_of_its_own_needs_no_passage(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"question": "What?", "context": "It is a warning to us."}
        reply = (await client.post("/v1/answer", json=body)).json()
        assert (reply["answer"], reply["start"], reply["end"]) == ("warning", 8, 15)
        assert reply["passage"] is None and reply["variant"].startswith("study-question-answering/")
        assert "embed" not in reply["milliseconds"] and {"wait", "model"} <= reply["milliseconds"].keys()

    talk(extracting, conversation)


def test_the_answering_fleet_reads_the_nearest_passages(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        for text, source in ((CAT, "cats"), (DOG, "dogs")):
            await client.post("/v1/passages", json={"text": text, "source": source})
        reply = (await client.post("/v1/answer", json={"question": "cat sleeps mat"})).json()
        assert reply["answer"] in ("sleeps", "postman.") and reply["passage"] is not None

    talk(extracting, conversation)


def test_feedback_is_kept(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        number = (await client.post("/v1/answer", json={"question": "q", "context": "something"})).json()["id"]
        feedback = {"helpful": False, "comment": "no"}
        assert (await client.post(f"/v1/answers/{number}/feedback", json=feedback)).status_code == 204
        assert (await client.get("/v1/history")).json()["answers"][0]["feedback"] == feedback
        for unknown in (number + 1, 0, 2**40):
            is_problem(await client.post(f"/v1/answers/{unknown}/feedback", json=feedback), 404)

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

    with service(tmp_path / "more", classes) as backend:
        talk(backend, conversation)


def test_pairs_of_texts_are_classified(tmp_path: Path) -> None:
    def same(rows: Any) -> Any:
        return [{"label": str(row["text"] == row["text_pair"]), "score": 1.0} for row in rows]

    async def conversation(client: httpx.AsyncClient) -> None:
        pairs = [{"text": "a", "text_pair": "a"}, {"text": "a", "text_pair": "b"}]
        results = (await client.post("/v1/classify", json={"texts": pairs})).json()["results"]
        assert [one["label"] for one in results] == ["True", "False"]
        is_problem(await client.post("/v1/classify", json={"texts": [{"text": "a"}]}), 422)
        late = await client.post("/v1/classify", json={"texts": ["a"], "within_ms": 0.01})
        is_problem(late, 429)  # a call of the only variant takes longer

    with service(tmp_path, fleet(CLASSIFYING, same)) as backend:
        talk(backend, conversation)


def test_many_long_texts_are_embedded_in_slices(tmp_path: Path) -> None:
    """Together they take longer than the seconds that a request has; none is refused for that."""
    slow = Fleet(
        EMBEDDING_TASK, "slow", [Variant(0, 1.0, 0.0, ((1, 0.2), (8, 1.6)), 512)], {0: embed}, Limits(slo_s=5.0)
    )

    async def conversation(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/embed", json={"input": ["word " * 1000] * 64})
        assert response.status_code == 200 and len(response.json()["data"]) == 64

    with service(tmp_path, slow) as backend:
        talk(backend, conversation)


def test_a_long_context_counts_by_its_windows_and_a_text_that_is_cut_by_one() -> None:
    cut, slid = WindowSettings(128), WindowSettings(128, shared=32)
    assert (cut.length("a" * 4000), slid.length("a" * 40)) == (128, 11)
    question, context = "q" * 40, "c" * 4000  # 11 and 1001 tokens: 128 in the first window, 85 more in each other
    assert slid.count(question, context) == 1 + math.ceil((1011 - 128) / (128 - 11 - 32))
    assert slid.length(question, context) == 128 * slid.count(question, context)
    assert (
        WindowSettings(64, shared=200).count(question, context) > 1
    )  # a question that leaves no room is refused by the model


def test_a_variant_is_pinned_and_let_go(extracting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        for number in (3, 7):
            assert (await client.post(f"/v1/variants/{number}:pin")).status_code == 204
            reply = (await client.post("/v1/answer", json={"question": f"q{number}", "context": "something"})).json()
            assert reply["variant"] == f"study-question-answering/{number}"
            # The same question again: what another variant has answered is no answer of the pinned one.
            same = (await client.post("/v1/answer", json={"question": "same", "context": "something"})).json()
            assert same["variant"] == reply["variant"] and not same["cached"]
            status = (await client.get("/v1/variants")).json()["fleets"][ANSWERING]
            assert status["serving"] == status["pinned"] == number
        assert (await client.post("/v1/variants/3:pin")).status_code == 204
        status = (await client.get("/v1/variants")).json()["fleets"][ANSWERING]
        assert status["serving"] == 3  # before its first answer
        assert (await client.post("/v1/variants/7:pin")).status_code == 204
        content = is_problem(await client.post("/v1/variants/5:pin"), 404)
        assert content["detail"] == "variant must be one of 3, 7, got 5"
        is_problem(await client.post("/v1/variants/3:pin?task=none"), 404)
        status = (await client.get("/v1/variants")).json()["fleets"][ANSWERING]
        assert status["pinned"] == 7 and [one["number"] for one in status["variants"]] == [3, 7]
        assert status["switches"] == 1  # from 3 to 7; a pin switches with the next batch
        assert (await client.post("/v1/variants:unpin")).status_code == 204
        assert (await client.get("/v1/variants")).json()["fleets"][ANSWERING]["pinned"] is None

    talk(extracting, conversation)


def test_files_are_cut_into_passages_and_their_names_open_nothing(served: Service, tmp_path: Path) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        name = "../../../etc/passwd"
        text = " ".join(f"Sentence number {i} is here." for i in range(200))
        response = await client.post("/v1/passages/file", files={"file": (name, text.encode(), "text/plain")})
        assert response.status_code == 201 and len(response.json()["ids"]) > 3
        passages = (await client.get("/v1/passages")).json()["passages"]
        assert " ".join(one["text"] for one in passages) == text
        assert all(len(one["text"]) <= 900 for one in passages)
        marked = await client.post("/v1/passages/file", files={"file": ("a.txt", b"\xef\xbb\xbfab\xff", "text/plain")})
        assert "got byte 0xff" in is_problem(marked, 422)["detail"]  # behind a byte order mark
        for content in (b"\xff\xfe broken", b"", b"   "):
            is_problem(await client.post("/v1/passages/file", files={"file": ("a.txt", content, "text/plain")}), 422)

    talk(served, conversation)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "embeddings", "service.db", "service.db-wal", "service.db-shm"
    }  # fmt: skip


def test_the_rate_is_of_the_time_that_the_kept_answers_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("search.serve.app.time", SimpleNamespace(monotonic=lambda: now[0]))
    live = RecentTimes()
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


def test_the_description_says_that_errors_are_problems_and_metrics_text(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        paths = (await client.get("/openapi.json")).json()["paths"]
        described = [operation["responses"] for methods in paths.values() for operation in methods.values()]
        assert len(described) >= 18
        for responses in described:
            assert list(responses["default"]["content"]) == ["application/problem+json"] and "422" not in responses
        assert list(paths["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]

    talk(served, conversation)


def test_metrics_have_a_name_of_the_service_and_their_unit(served: Service) -> None:
    """As Prometheus asks for: one first part, base units, and counters that end in _total."""

    async def conversation(client: httpx.AsyncClient) -> None:
        lines = (await client.get("/metrics")).text.splitlines()
        kinds = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
        assert len(kinds) > 15
        for name, kind in kinds.items():
            assert name.startswith("search_serve_") and name.endswith("_total") == (kind == "counter"), name
            if kind == "histogram":
                assert name.endswith("_seconds")
            assert "_ms" not in name and "_mb" not in name

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
