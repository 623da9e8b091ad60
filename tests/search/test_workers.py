"""Models in processes of their own: killed and hung ones under load, completions, and rows that are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import held_models
import httpx
import pytest
from services import events, is_problem, service, talk, variant

from search.serve import generation_request
from search.serve.batching import Limits
from search.serve.fleet import CAUSAL_TASK, Fleet
from search.serve.worker import Workers

from .worker_processes import answering, gone, until


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_ends_or_hangs_under_load_costs_no_wrong_answer(
    tmp_path: Path, start: Callable[..., Workers], stop: signal.Signals
) -> None:
    """Its requests are answered by the other variant, and it is back within seconds."""
    factory = partial(held_models.Extractor, 0.02)
    workers = start({1: factory, 2: factory}, least_s=0.5)
    before = dict(workers.pids)
    statuses: Counter[int] = Counter()

    async def one(client: httpx.AsyncClient, number: int) -> None:
        body = {"question": f"q{number}", "context": f"word{number} and more", "within_ms": 4000}
        response = await client.post("/v1/answer", json=body)
        statuses[response.status_code] += 1
        if response.status_code == 200:
            assert response.json()["answer"] == f"word{number}"
        else:
            is_problem(response, response.status_code)

    async def conversation(client: httpx.AsyncClient) -> None:
        serving = 2
        answering_fleet.dispatcher.pin(serving)  # so that its worker is in a call when it stops
        numbers = iter(range(10, 10_000))

        async def load() -> None:
            while not workers.restarts or time.monotonic() < began + 1.0:
                assert time.monotonic() < began + 20
                await one(client, next(numbers))

        began = time.monotonic()
        tasks = [asyncio.create_task(load()) for _ in range(8)]
        await asyncio.sleep(0.2)
        while not gone(before[serving]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(before[serving], stop)  # again and again: a message continues a process that was stopped
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        assert workers.pids[serving] != before[serving] and gone(before[serving])
        assert 'worker_restarts_total{task="question-answering"} 1.0' in (await client.get("/metrics")).text
        await one(client, 10_000)

    answering_fleet = answering(workers, Limits(slo_s=0.5))
    with service(tmp_path, answering_fleet) as running:
        talk(running, conversation)
    assert statuses[200] == statuses.total() > 20
    assert all(gone(pid) for pid in workers.pids.values())


def test_where_one_worker_is_all_its_end_is_refused_cleanly_and_it_serves_again(
    tmp_path: Path, start: Callable[..., Workers]
) -> None:
    workers = start({1: partial(held_models.Extractor, 0.2)})

    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"question": "q", "context": "word and more", "within_ms": 600}
        asked = asyncio.create_task(client.post("/v1/answer", json=body))
        await asyncio.sleep(0.1)
        os.kill(workers.pids[1], signal.SIGKILL)
        first = await asked
        assert first.status_code in (200, 503, 504)
        began = time.monotonic()
        while (response := await client.post("/v1/answer", json={**body, "question": "again"})).status_code != 200:
            is_problem(response, response.status_code)
            assert response.status_code in (503, 504) and time.monotonic() < began + 10
            await asyncio.sleep(0.05)
        assert response.json()["answer"] == "word"

    with service(tmp_path, answering(workers)) as running:
        talk(running, conversation)


def test_a_row_that_is_wrong_fails_alone_and_the_process_stays(tmp_path: Path, start: Callable[..., Workers]) -> None:
    workers = start({1: partial(held_models.Extractor, 0.0)})
    pids = workers.pids

    async def conversation(client: httpx.AsyncClient) -> None:
        bodies = [{"question": f"{'refuse' if i == 3 else 'q'}{i}", "context": f"word{i}"} for i in range(6)]
        responses = await asyncio.gather(*(client.post("/v1/answer", json=body) for body in bodies))
        assert [response.status_code for response in responses] == [200, 200, 200, 422, 200, 200]

    with service(tmp_path, answering(workers)) as running:
        talk(running, conversation)
        assert workers.pids == pids and workers.restarts == 0


def test_a_completion_of_a_process_streams_is_stopped_and_breaks_off_cleanly(
    tmp_path: Path, start: Callable[..., Workers]
) -> None:
    workers = start({0: partial(held_models.Writer, 0.02)})
    fleet = Fleet(
        CAUSAL_TASK, "lm", [variant(0, 1.0, 0.8)], workers.completions, generation_request.LIMITS, workers=workers
    )

    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"prompt": "a", "max_tokens": 3, "stream": True}
        pieces = events((await client.post("/v1/completions", json=body)).text)
        assert [one["choices"][0]["text"] for one in pieces[:-1]] == ["1 ", "2 ", "3 ", ""]
        is_problem(await client.post("/v1/completions", json={"prompt": "a" * 101}), 422)
        late = {"prompt": "a", "max_tokens": 500, "within_ms": 1500}
        is_problem(await client.post("/v1/completions", json=late), 504)
        until(lambda: fleet.dispatcher.look(lambda batcher: not batcher.running))
        assert workers[0].call("written") < 100
        task = asyncio.create_task(client.post("/v1/completions", json={**body, "max_tokens": 500}))
        await asyncio.sleep(0.3)
        os.kill(workers.pids[0], signal.SIGKILL)
        broken = (await task).text
        assert "event: error" in broken and events(broken)[-1]["status"] == 503

    with service(tmp_path, fleet) as running:
        talk(running, conversation)


def test_a_completion_without_a_new_piece_is_broken_off_and_its_process_started_again(
    tmp_path: Path, start: Callable[..., Workers]
) -> None:
    """Within the time in which a piece must come, whatever time the completion has."""
    workers = start({0: partial(held_models.Writer, 0.02)}, least_s=1.0)
    before = workers.pids[0]
    fleet = Fleet(
        CAUSAL_TASK, "lm", [variant(0, 1.0, 0.8)], workers.completions, generation_request.LIMITS, workers=workers
    )

    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"prompt": "a", "max_tokens": 500, "within_ms": 60_000, "stream": True}
        slow = await client.post("/v1/completions", json={**body, "max_tokens": 60})  # 1.2 s, a piece each 20 ms
        assert slow.text.endswith("data: [DONE]\n\n")
        task = asyncio.create_task(client.post("/v1/completions", json=body))
        await asyncio.sleep(0.3)
        stopped = time.monotonic()
        os.kill(before, signal.SIGSTOP)
        broken = (await task).text
        assert time.monotonic() - stopped < 5
        *pieces, error = events(broken)
        assert "event: error" in broken and error["status"] == 503 and pieces[0]["choices"][0]["text"] == "1 "
        until(lambda: workers.restarts == 1)
        await asyncio.sleep(0.1)
        assert (await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})).status_code == 200

    with service(tmp_path, fleet) as running:
        talk(running, conversation)
        assert gone(before)
