"""Every switch of a controller is logged and stored."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from services import extract, fleet, is_problem, service, talk

from search.serve.controller import Switch
from search.serve.database.tables import now
from search.serve.database.writer import WriterFullError
from search.serve.fleet import Fleet
from search.serve.server import again
from search.serve.service import ANSWERING, Service
from search.serve.switch_log import SwitchLog


def switched(fleet: Fleet, *numbers: int) -> None:
    """The serving variant changes from each of the numbers to the next."""
    for before, after in itertools.pairwise(numbers):
        fleet.controller.switches.append(Switch(time.monotonic() - 60.0, before, after, f"to {after}"))
        fleet.controller.switch_count += 1


def test_every_switch_is_logged_and_stored_with_its_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answering = fleet(ANSWERING, extract, (3, 5, 7))
    answering.controller.switches.append(Switch(0.0, None, 7, "start"))  # no switch: none served before
    with service(tmp_path, answering) as backend, caplog.at_level("INFO"):
        switch_log = SwitchLog(backend)
        switch_log.look()
        for numbers in ((7, 5, 3), (3, 5, 3), (3, 5)):
            switched(answering, *numbers)
            switch_log.look()
        switch_log.look()
        backend.archive.make_key("after").result(5)  # what was put before is written
        stored = list(reversed(backend.archive.switches()))
    study = "study-question-answering"
    expected = [(7, 5), (5, 3), (3, 5), (5, 3), (3, 5)]
    told = [(f"{study}/{before}", f"{study}/{after}", f"to {after}") for before, after in expected]
    assert [(one["from"], one["to"], one["reason"]) for one in stored] == told
    lines = [f"question-answering: from {before} to {after}: {reason}" for before, after, reason in told]
    assert [record.getMessage() for record in caplog.records if record.name.endswith("switch_log")] == lines
    ago_s = [(now() - datetime.fromisoformat(one["at"])).total_seconds() for one in stored]
    assert all(59 < seconds < 90 for seconds in ago_s)


def test_switches_that_the_database_does_not_take_are_stored_later_and_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: Any) -> Any:
        raise WriterFullError("many writes wait for the database")

    answering = fleet(ANSWERING, extract, (3, 5))
    with service(tmp_path, answering) as backend, caplog.at_level("INFO"):
        switch_log = SwitchLog(backend)
        switched(answering, 3, 5)
        with monkeypatch.context() as patch:
            patch.setattr(backend.archive, "switched", full)
            with pytest.raises(WriterFullError):
                switch_log.look()
        switched(answering, 5, 3)
        switch_log.look()
        backend.archive.make_key("after").result(5)
        assert [one["reason"] for one in backend.archive.switches()] == ["to 3", "to 5"]
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("switch_log")]
    assert [line.rpartition(": ")[2] for line in lines] == ["to 5", "to 3"]


def test_switches_that_a_controller_has_forgotten_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answering = fleet(ANSWERING, extract, (3, 5))
    with service(tmp_path, answering) as backend:
        switched(answering, *(3, 5) * 600)
        SwitchLog(backend).look()
        backend.archive.make_key("after").result(5)
        assert len(backend.archive.switches(limit=2000)) == 1000
    assert "question-answering: 199 earlier switches are not stored" in caplog.text


def test_the_switch_log_looks_again_and_again(tmp_path: Path) -> None:
    answering = fleet(ANSWERING, extract, (3, 5))

    async def stored(backend: Service) -> str:
        watching = asyncio.create_task(SwitchLog(backend).watch(every_s=0.01))
        while not backend.archive.switches():
            switched(answering, 3, 5)
            await asyncio.sleep(0.05)
        watching.cancel()
        return str(backend.archive.switches()[0]["reason"])

    with service(tmp_path, answering) as backend:
        assert asyncio.run(asyncio.wait_for(stored(backend), 10)) == "to 5"


def test_switches_of_the_last_moment_are_stored_where_the_service_ends(tmp_path: Path) -> None:
    answering = fleet(ANSWERING, extract, (3, 5))

    async def ends(backend: Service) -> None:
        watching = asyncio.create_task(SwitchLog(backend).watch(every_s=60.0))
        await asyncio.sleep(0)
        switched(answering, 3, 5)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    with service(tmp_path, answering) as backend:
        asyncio.run(ends(backend))
        backend.archive.make_key("after").result(5)  # what was put before is written
        assert [one["reason"] for one in backend.archive.switches()] == ["to 5"]


def test_switches_are_listed_newest_first_a_page_at_a_time(tmp_path: Path) -> None:
    answering = fleet(ANSWERING, extract, (3, 5))

    async def conversation(client: httpx.AsyncClient) -> None:
        newest = (await client.get("/v1/switches?limit=2")).json()["switches"]
        older = (await client.get(f"/v1/switches?before={newest[-1]['id']}")).json()["switches"]
        assert [one["reason"] for one in newest + older] == ["to 5", "to 3", "to 5"]
        assert newest + older == (await client.get("/v1/variants")).json()["switches"]
        is_problem(await client.get("/v1/switches?before=0"), 422)

    with service(tmp_path, answering) as backend:
        switched(answering, 3, 5, 3, 5)
        SwitchLog(backend).look()
        backend.archive.make_key("after").result(5)
        talk(backend, conversation)


def test_a_service_ends_though_the_database_takes_no_switches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [WriterFullError("many writes wait for the database")]

    def full(_: Any) -> None:
        if failures:
            raise failures.pop()

    answering = fleet(ANSWERING, extract, (3, 5))

    async def ends(backend: Service) -> None:
        watching = asyncio.create_task(again("storing switches", SwitchLog(backend).watch, first_s=0.01))
        await asyncio.sleep(0)
        switched(answering, 3, 5)
        watching.cancel()
        await asyncio.wait({watching}, timeout=1)
        assert watching.cancelled()

    with service(tmp_path, answering) as backend:
        monkeypatch.setattr(backend.archive, "switched", full)
        asyncio.run(ends(backend))
    assert "the last switches are not stored: " in caplog.text
