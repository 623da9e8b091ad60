"""Completions: OpenAI's shapes, streams, clients that leave, deadlines, models that fail, and the history."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from services import Counting, causal, events, is_problem, running, service, talk

from search.serve.fleet import CAUSAL_TASK
from search.serve.generator import Piece
from search.serve.service import Service


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path, causal(Counting())) as serving:
        yield serving


def test_a_completion_is_as_openai_s_and_in_the_history(counting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"prompt": "count", "max_tokens": 3, "temperature": 0}
        completion = (await client.post("/v1/completions", json=body)).json()
        assert completion["object"] == "text_completion" and completion["model"] == "study-lm/0"
        assert completion["choices"] == [{"index": 0, "text": "1 2 3 ", "logprobs": None, "finish_reason": "length"}]
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        assert completion["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 0}}
        stopped = (await client.post("/v1/completions", json={**body, "stop": "2"})).json()["choices"][0]
        assert (stopped["text"], stopped["finish_reason"]) == ("1 ", "stop")
        newest, oldest = (await client.get("/v1/history")).json()["answers"]
        assert (oldest["id"], oldest["question"], oldest["answer"]) == (completion["answer"], "count", "1 2 3 ")
        assert newest["task"] == "causal-lm" and newest["variant"] == "study-lm/0"
        response = await client.post(f"/v1/answers/{newest['id']}/feedback", json={"helpful": True})
        assert response.status_code == 204
        metrics = (await client.get("/metrics")).text
        assert "completion_tokens_total 5.0" in metrics and 'completions_total{finish="stop"} 1.0' in metrics
        assert "prompt_tokens_total 10.0" in metrics and "prompt_tokens_cached_total 0.0" in metrics
        assert (await client.get("/v1/status")).json()["answering"] == "causal-lm"

    talk(counting, conversation)


def test_tokens_that_were_read_with_an_earlier_prompt_are_told_and_counted(tmp_path: Path) -> None:
    class Remembering(Counting):
        def pieces(self, prompt: Any, **options: Any) -> Iterator[Piece]:
            return (replace(piece, reused=3) for piece in super().pieces(prompt, **options))

    async def conversation(client: httpx.AsyncClient) -> None:
        completion = (await client.post("/v1/completions", json={"prompt": "count", "max_tokens": 3})).json()
        assert completion["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
        metrics = (await client.get("/metrics")).text
        assert "prompt_tokens_total 5.0" in metrics and "prompt_tokens_cached_total 3.0" in metrics

    with service(tmp_path, causal(Remembering())) as serving:
        talk(serving, conversation)


def test_a_stream_has_an_event_for_each_piece_and_its_ending(counting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"prompt": "count", "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
        response = await client.post("/v1/completions", json=body)
        assert response.headers["content-type"].startswith("text/event-stream")
        *pieces, ending, usage, done = events(response.text)
        assert [one["choices"][0]["text"] for one in pieces] == ["1 ", "2 ", "3 "] and done == "[DONE]"
        assert all(one["choices"][0]["finish_reason"] is None and one["usage"] is None for one in pieces)
        assert ending["choices"][0]["finish_reason"] == "length" and usage["usage"]["total_tokens"] == 8
        assert (await client.get("/v1/history")).json()["answers"][0]["id"] == ending["answer"]

    talk(counting, conversation)


def test_a_chat_is_answered_in_openai_s_shape(counting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"messages": [{"role": "user", "content": "count"}], "max_tokens": 2}
        completion = (await client.post("/v1/chat/completions", json=body)).json()
        assert completion["object"] == "chat.completion"
        assert completion["choices"][0]["message"] == {"role": "assistant", "content": "1 2 "}
        streamed = events((await client.post("/v1/chat/completions", json={**body, "stream": True})).text)
        deltas = [one["choices"][0]["delta"] for one in streamed[:-1]]
        assert deltas == [{"role": "assistant", "content": "1 "}, {"content": "2 "}, {}]
        assert (await client.get("/v1/history")).json()["answers"][0]["question"] == "user: count"

    talk(counting, conversation)


@pytest.mark.parametrize("stream", [False, True])
def test_wrong_prompts_and_options_are_problems(counting: Service, stream: bool) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        long = is_problem(await client.post("/v1/completions", json={"prompt": "x" * 101, "stream": stream}), 422)
        assert "at most 100 tokens" in long["detail"]
        for wrong in ({"prompt": ""}, {"top_p": 0}, {"n": 2}, {"stop": ""}, {"temperature": -1}, {"seed": -1}):
            body = {"prompt": "a", **wrong, "stream": stream}
            is_problem(await client.post("/v1/completions", json=body), 422)
        assert (await client.get("/v1/history")).json()["answers"] == []

    talk(counting, conversation)


def test_max_completion_tokens_is_another_name_of_max_tokens(counting: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        chat = {"messages": [{"role": "user", "content": "count"}]}
        for path, body in (("completions", {"prompt": "count"}), ("chat/completions", chat)):
            for limits in ({"max_completion_tokens": 3}, {"max_completion_tokens": 3, "max_tokens": 3}):
                completion = (await client.post(f"/v1/{path}", json={**body, **limits})).json()
                assert completion["usage"]["completion_tokens"] == 3
            differing = {**body, "max_completion_tokens": 3, "max_tokens": 16}
            content = is_problem(await client.post(f"/v1/{path}", json=differing), 422)
            assert "must be the same where both are given, got 16 and 3" in content["detail"]
            is_problem(await client.post(f"/v1/{path}", json={**body, "max_completion_tokens": 0}), 422)

    talk(counting, conversation)


def test_without_a_causal_front_there_is_no_completion(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        content = is_problem(await client.post("/v1/completions", json={"prompt": "a"}), 404)
        assert content["detail"] == "no causal-lm study is served; name one when the service is started"

    talk(served, conversation)


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_fails_before_its_first_token_and_another_completes(tmp_path: Path, stream: bool) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "stream": stream})
        assert response.status_code == 200 and "study-lm/0" in response.text and "error" not in response.text

    with service(tmp_path, causal(Counting(), Counting(fails_at=1))) as serving:
        serving.fleets[CAUSAL_TASK].dispatcher.pin(1)
        talk(serving, conversation)


def test_an_error_in_the_middle_of_a_stream_is_an_event_and_the_variant_is_out(tmp_path: Path) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"prompt": "a", "max_tokens": 9, "stream": True}
        response = await client.post("/v1/completions", json=body)
        assert response.text.split("\n\n")[-2].startswith("event: error\ndata: ")
        *pieces, error = events(response.text)
        assert [one["choices"][0]["text"] for one in pieces] == ["1 ", "2 "]
        assert error["status"] == error["error"]["code"] == 503 and "/secret/path" not in response.text
        is_problem(await client.post("/v1/completions", json={"prompt": "a"}), 503)
        until = time.monotonic() + 5  # nobody waited for it to be stored
        while not (answers := (await client.get("/v1/history")).json()["answers"]):
            assert time.monotonic() < until
        assert [one["answer"] for one in answers] == ["1 2 "]

    with service(tmp_path, causal(Counting(fails_at=3))) as serving:
        talk(serving, conversation)


def test_a_completion_that_is_late_is_broken_off(tmp_path: Path) -> None:
    model = Counting(seconds=0.05)

    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"prompt": "a", "max_tokens": 500, "within_ms": 1500}
        is_problem(await client.post("/v1/completions", json=body), 504)
        assert model.written < 40

    with service(tmp_path, causal(model)) as serving:
        talk(serving, conversation)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_model(tmp_path: Path, stream: bool) -> None:
    model = Counting(seconds=0.02)
    with service(tmp_path, causal(model)) as serving, running(serving) as url:
        body = {"prompt": "a", "max_tokens": 5000, "stream": stream}
        with httpx.Client(base_url=url, timeout=5) as client:
            if stream:
                with client.stream("POST", "/v1/completions", json=body) as response:
                    next(response.iter_text())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post("/v1/completions", json=body, timeout=0.3)
            until = time.monotonic() + 5
            while 'completions_total{finish="cancelled"} 1.0' not in client.get("/metrics").text:
                assert time.monotonic() < until
            written = model.written
            time.sleep(0.2)
            assert model.written <= written + 1
            if stream:
                while not (answers := client.get("/v1/history").json()["answers"]):
                    assert time.monotonic() < until
                assert answers[0]["answer"].startswith("1 ")


@pytest.mark.parametrize(("tokens", "whole"), [(10, True), (5000, False)])
def test_a_stream_that_is_open_when_the_service_ends_has_time_and_then_ends_with_an_error(
    tmp_path: Path, tokens: int, whole: bool
) -> None:
    model, received = Counting(seconds=0.02), list[str]()

    def read(url: str) -> None:
        body = {"prompt": "a", "max_tokens": tokens, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=10) as response:
            received.extend(response.iter_text())

    with service(tmp_path, causal(model)) as serving:
        with running(serving, drain_s=1) as url:
            reader = threading.Thread(target=read, args=(url,))
            reader.start()
            assert model.begun.wait(10)
        reader.join(10)
        serving.archive.make_key("after").result(5)  # what was put before is stored
        [stored] = serving.archive.history()
    text = "".join(received)
    assert text.endswith("data: [DONE]\n\n") == whole
    assert stored["answer"].startswith("1 2 3 ") and stored["answer"].endswith("10 ") == whole
    assert model.written < 200
    if not whole:
        assert text.split("\n\n")[-2].startswith("event: error\n")
        error = events(text)[-1]
        assert (error["status"], error["detail"]) == (503, "the service ends before the request is answered")


def test_a_request_that_is_open_when_the_time_to_end_is_over_is_told(tmp_path: Path) -> None:
    model, replies = Counting(seconds=0.02), list[httpx.Response]()

    def ask(url: str) -> None:
        body = {"prompt": "a", "max_tokens": 5000}
        replies.append(httpx.post(f"{url}/v1/completions", json=body, timeout=10))

    with service(tmp_path, causal(model)) as serving:
        with running(serving, drain_s=1) as url:
            asking = threading.Thread(target=ask, args=(url,))
            asking.start()
            assert model.begun.wait(10)
        asking.join(10)
    [reply] = replies
    assert is_problem(reply, 503)["detail"] == "the service ends before the request is answered"
    assert reply.headers["retry-after"] == "1" and "content-security-policy" in reply.headers


def test_completions_take_turns_and_the_service_answers_meanwhile(tmp_path: Path) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"prompt": "a", "max_tokens": 10}
        running = [asyncio.create_task(client.post("/v1/completions", json=body)) for _ in range(4)]
        slowest = 0.0
        while not all(one.done() for one in running):
            began = time.perf_counter()
            assert (await client.get("/healthz")).status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
            await asyncio.sleep(0.005)
        assert all(one.result().json()["choices"][0]["text"].endswith("10 ") for one in running)
        assert slowest < 0.2

    with service(tmp_path, causal(Counting(seconds=0.01))) as serving:
        talk(serving, conversation)
