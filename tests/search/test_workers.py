"""Models in processes of their own: killed and hung ones under load, completions, and what a call costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import held_models
import httpx
import pytest
from services import LIMITS, events, is_problem, service, talk, variant

from objectives.process import RemoteDied
from search.errors import UserError
from search.serve import generation_request
from search.serve.batching import Limits
from search.serve.fleet import CAUSAL_TASK, ExportedFront, Fleet, WindowSettings, in_processes
from search.serve.service import ANSWERING
from search.serve.worker import Factory, Workers


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Workers]]:
    """Makes workers that end with the test."""
    running: list[Workers] = []

    def make(factories: Mapping[int, Factory], **options: Any) -> Workers:
        running.append(Workers(factories, **options))
        return running[-1]

    yield make
    for workers in running:
        workers.close()


def answering(workers: Workers, limits: Limits = LIMITS) -> Fleet:
    variants = [variant(number, 1.0 + number, 0.8 + 0.01 * number) for number in workers.pids]
    return Fleet(ANSWERING, "study-qa", variants, workers.answers, limits, "f1", workers=workers)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


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


def test_a_call_during_a_restart_is_refused_at_once(tmp_path: Path, start: Callable[..., Workers]) -> None:
    workers = start({1: partial(held_models.Slow, tmp_path / "started", 3.0)})
    worker, before = workers[1], workers.pids[1]
    os.kill(before, signal.SIGKILL)
    until(lambda: worker.ended)
    restarting = threading.Thread(target=worker.restart)
    restarting.start()
    time.sleep(0.3)
    began = time.monotonic()
    with pytest.raises(RemoteDied):
        worker.answer(["a"])
    assert time.monotonic() - began < 1 and restarting.is_alive()
    restarting.join()
    assert worker.answer(["a"]) == ["a"] and worker.pid != before


def test_while_the_only_worker_starts_again_requests_are_refused_at_once(
    tmp_path: Path, start: Callable[..., Workers]
) -> None:
    workers = start({1: partial(held_models.Slow, tmp_path / "started", 2.0)})

    async def conversation(client: httpx.AsyncClient) -> None:
        os.kill(workers.pids[1], signal.SIGKILL)
        while fleet.dispatcher.look(lambda batcher: batcher.controller.available(time.monotonic())):
            await asyncio.sleep(0.02)
        while not workers.restarts:
            began = time.monotonic()
            response = await client.post("/v1/answer", json={"question": "q", "context": "word", "within_ms": 5000})
            if workers.restarts:
                break
            is_problem(response, 503)
            assert time.monotonic() - began < 1.0 and int(response.headers["retry-after"]) < 30
            await asyncio.sleep(0.05)

    fleet = answering(workers)
    with service(tmp_path, fleet) as running:
        talk(running, conversation)


def test_a_process_that_is_long_in_starting_keeps_no_other_from_it(
    tmp_path: Path, start: Callable[..., Workers]
) -> None:
    slow, quick = tmp_path / "slow", tmp_path / "quick"
    workers = start({1: partial(held_models.Slow, slow, 60.0), 2: partial(held_models.Slow, quick, 0.0)})
    fleet = answering(workers)
    os.kill(workers.pids[1], signal.SIGKILL)
    until(lambda: slow.read_text().count("\n") == 2)
    os.kill(workers.pids[2], signal.SIGKILL)
    until(lambda: workers.restarts == 1, 30.0)
    assert fleet.dispatcher.submit({"question": "a"}, 1).result(10).number == 2
    fleet.close()


def test_closing_ends_a_process_that_is_being_started_again(tmp_path: Path, start: Callable[..., Workers]) -> None:
    file = tmp_path / "started"
    workers = start({1: partial(held_models.Slow, file, 600.0)})
    fleet = answering(workers)
    os.kill(workers.pids[1], signal.SIGKILL)
    until(lambda: file.read_text().count("\n") == 2)
    began = time.monotonic()
    fleet.close()
    until(lambda: all(gone(int(pid)) for pid in file.read_text().split()), 2.0)
    assert workers.restarts == 0 and time.monotonic() - began < 5
    assert not workers[1].restart()  # nor is one started later


def test_closing_ends_a_call_that_hangs(start: Callable[..., Workers]) -> None:
    workers = start({1: partial(held_models.Extractor, 60.0)})
    fleet = answering(workers)
    future = fleet.dispatcher.submit({"question": "q", "context": "word"}, 1, 5.0)
    until(lambda: fleet.dispatcher.look(lambda batcher: batcher.running))
    began = time.monotonic()
    fleet.close(timeout_s=0.1)
    assert time.monotonic() - began < 5 and future.exception(10) is not None


@pytest.mark.parametrize(
    ("held", "task", "message"),
    [
        (held_models.HangsWhenTimed, CAUSAL_TASK, r"\(timed\): no answer within 2 s"),
        (held_models.DiesWhenTimed, CAUSAL_TASK, r"\(timed\): its process died"),
        (held_models.DiesWhenTimed, ANSWERING, r"\(pace\): its process died"),
    ],
)
def test_a_warm_up_that_hangs_or_dies_is_one_error_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Any, task: str, message: str
) -> None:
    monkeypatch.setattr("search.serve.worker.START_S", 2.0)
    monkeypatch.setattr("search.serve.model_process.ModelProcess", held)
    front = ExportedFront(task, "s", "f1", (variant(0, 1.0, 0.8),), WindowSettings())
    with pytest.raises(UserError, match=f"^variant 0: its warm-up {message}"):
        in_processes(front, {0: tmp_path / "pid"}, LIMITS, "cpu", 0.0)
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_process_that_dies_at_its_start_is_one_error(start: Callable[..., Workers]) -> None:
    with pytest.raises(UserError, match="variant 2: start: its process died"):
        start({1: partial(held_models.Extractor, 0.0), 2: held_models.Dead})


def test_a_model_that_cannot_be_loaded_leaves_no_process(start: Callable[..., Workers]) -> None:
    with pytest.raises(UserError, match="no such model"):
        start({1: partial(held_models.Extractor, 0.0), 2: held_models.Absent})
