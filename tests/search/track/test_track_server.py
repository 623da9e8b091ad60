"""Tracking where the server does not answer, answers in part, or holds its database."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from search.errors import UserError
from search.front.front import Front
from search.store.locks import check_writable
from search.track.observer import PAUSE_S, PAUSE_SHARE, Tracking
from search.track.tracker import check_store

from .. import factory
from .test_track import on_front, runs, started


class Broken:
    """A tracker's client whose server answers 503 as long as `down`."""

    def __init__(self, real: Any) -> None:
        self._real, self.down = real, False

    def __getattr__(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        if self.down:
            raise MlflowException("API request failed with error code 503 != 200")
        return getattr(self._real, name)


def test_what_a_server_did_not_take_is_logged_when_it_answers_again(
    store: Path, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    clients: list[Broken] = []
    client_of = mlflow.MlflowClient

    def breaking(uri: str) -> Broken:
        clients.append(Broken(client_of(uri)))
        return clients[-1]

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", breaking)
        tracker = started(store, "away")
    broken = clients[-1]
    messages: list[str] = []
    now = [0.0]
    tracking = Tracking(lambda: tracker, messages.append, "http://mlflow.example", clock=lambda: now[0])
    tracking.begin(Front(front.targets))
    partial = Front(front.targets)
    for outcome in front.outcomes:
        broken.down = 3 <= outcome.number < 9
        now[0] += PAUSE_S / 2
        partial = partial.add(outcome)
        tracking.observe(outcome, partial)
    assert len(messages) == 2 and "failed" in messages[0] and "503" in messages[0] and "answers again" in messages[1]
    study = factory.study(front)
    assert tracking.finish(front, study, tmp_path, "FINISHED") == []
    logged_runs = runs(store, "away")
    assert len(logged_runs) == 1 + len(front.outcomes)
    assert {run.info.status for run in logged_runs.values()} <= {"FINISHED", "FAILED"}, "none is cut short"
    assert on_front(store, "away") == {o.number for o in front.members}


def test_a_trial_that_a_server_took_in_part_is_logged_once_and_whole(
    store: Path, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.track import tracker as track

    tracker = started(store, "part")
    tracking = Tracking(lambda: tracker, lambda line: None, "http://mlflow.example", clock=lambda: 1e9)
    partial = Front(front.targets).add(front.outcomes[0])
    with monkeypatch.context() as patch:
        patch.setattr(track, "log_values", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("reset")))
        tracking.observe(front.outcomes[0], partial)
    tracking.retry_at = 0.0
    partial = partial.add(front.outcomes[1])
    tracking.observe(front.outcomes[1], partial)
    assert runs(store, "part").keys() == {"part", "trial-0", "trial-1"}
    assert runs(store, "part")["trial-0"].data.metrics


def test_a_server_that_stays_away_is_left_alone_and_the_end_says_what_is_missing(front: Front, tmp_path: Path) -> None:
    tries: list[float] = []
    now = [0.0]
    messages: list[str] = []

    def connect() -> Any:
        tries.append(now[0])
        now[0] += 20.0  # what a server that does not answer costs
        raise ConnectionError("no answer")

    tracking = Tracking(connect, messages.append, "http://mlflow.example", clock=lambda: now[0])
    tracking.begin(front)
    for outcome in front.outcomes:
        now[0] += 30.0
        tracking.observe(outcome, front)
    waits = [later - before for before, later in itertools.pairwise(tries)]
    assert len(tries) > 1 and min(waits) >= 20.0 + PAUSE_SHARE * 20.0
    assert len(messages) == 1
    lines = tracking.finish(front, factory.study(front), tmp_path, "FINISHED")
    numbers = ", ".join(str(o.number) for o in front.outcomes)
    assert f"http://mlflow.example: trials {numbers}," in lines[0] and "the same command" in lines[1]
    tracking.close("FAILED")


class Unavailable(http.server.BaseHTTPRequestHandler):
    """Answers 503 to all."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_error(503)

    do_POST = do_GET  # noqa: N815 - its name there

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


def test_a_server_that_does_not_answer_is_found_before_anything_is_trained(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from search.cli import main as cli

    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unavailable) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert cli.main(["run", str(config)]) == 2
        server.shutdown()
    output = capsys.readouterr()
    assert output.err.startswith(f"error: MLFLOW_TRACKING_URI: must be an MLflow store that answers, got {uri}: ")
    assert len(output.err.splitlines()) == 1 and "..." not in output.out
    assert 1 <= Unavailable.asked <= 4, "a few tries, not minutes of them"
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    "uri", ["postgresql://user@127.0.0.1:9/mlflow", "http://127.0.0.1:9", "sqlite:////no/such/m.db"]
)
def test_a_store_that_is_not_there_is_refused_by_its_address(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI: must be .*got") as caught:
        check_store(Path("unused"))
    assert uri in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_run_on_a_server_ends_with_the_server_s_own_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from search.track.mlflow_store import ui_text

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000/")
    assert ui_text(tmp_path, "/#/experiments/7") == "http://mlflow.example:5000/#/experiments/7"


def test_a_database_that_another_program_holds_is_said_in_plain_words(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import optuna

    from search.cli import main as cli
    from search.propose import study
    from search.store import locks as lock

    monkeypatch.chdir(tmp_path)
    for module in (lock, study):
        monkeypatch.setattr(module, "BUSY_S", 0.2)
    mlruns = tmp_path / "mlruns"
    mlruns.mkdir()
    optuna.create_study(storage=study.storage(mlruns), study_name="other")
    with contextlib.closing(sqlite3.connect(mlruns / "optuna.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert cli.main(["run", str(config)]) == 2
        refused = capsys.readouterr().err
        assert cli.main(["front", "other"]) == 1
        failed = capsys.readouterr().err
        other.execute("ROLLBACK")
    assert f"{mlruns / 'optuna.db'}: another program holds it" in refused
    assert failed.startswith("failed: another program holds a database of the results folder")
    assert "SQL" not in refused + failed.replace("SQLite", "") and len(failed.splitlines()) == 2


def test_a_database_that_is_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root may write what has no write bit, the file system's answer stands in for a read-only one."""
    database = tmp_path / "mlflow.db"
    database.touch()
    check_writable(database)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"^mlruns: must be .* got .*mlflow\.db: it is read-only$"):
        check_writable(database)


@pytest.mark.parametrize("name", ["what?", "50%20off"])
@pytest.mark.parametrize("arguments", [["run"], ["front", "study"]])
def test_a_results_folder_that_no_address_can_hold_is_refused(
    name: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from search.cli import main as cli

    assert cli.main([*arguments, "--mlruns", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --mlruns: must be a folder whose path has no ? and no %") and name in error
    assert not (tmp_path / name).exists()
