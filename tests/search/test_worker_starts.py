"""Worker processes that start, start again and end: what is asked meanwhile, and what hangs or dies at the start."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import held_models
import httpx
import pytest
from services import LIMITS, is_problem, service, talk, variant

from objectives.process import RemoteDied
from search.errors import UserError
from search.serve.fleet import CAUSAL_TASK, ExportedFront, in_processes
from search.serve.service import ANSWERING
from search.serve.windows import WindowSettings
from search.serve.worker import Workers

from .worker_processes import answering, gone, until


def test_a_call_during_a_restart_is_refused_at_once(tmp_path: Path, start: Callable[..., Workers]) -> None:
    workers = start({1: partial(held_models.Slow, tmp_path / "started", 1.5)})
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
    workers = start({1: partial(held_models.Slow, tmp_path / "started", 1.0)})

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
