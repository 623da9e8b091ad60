"""What each command does, and the words it ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from search.config.load import from_mapping, results_path
from search.config.schema import RunConfig
from search.config.source import Source
from search.errors import UserError

if TYPE_CHECKING:
    from search.compose import Result
    from search.front.study_record import StudyRecord


def results(mlruns: Path | None) -> Path:
    return results_path(mlruns or Path("mlruns"), "--mlruns")


def run(config: RunConfig, retry_failed: bool = False, remeasure: bool = False) -> int:
    """Search; print the front and where everything is. `retry_failed`: what failed in earlier runs is tried again.

    `remeasure`: what the study holds is measured again here first.
    """
    from rich.console import Console

    from objectives import clock
    from search.compose import run as run_session
    from search.front.study_record import StudyRecord
    from search.prepare import runner as compose
    from search.report.progress import Lines, Live
    from search.report.text import census, pick_lines, table, ties_text

    terminal = sys.stdout.isatty()
    shown = StudyRecord(config.to_mapping(), clock.fingerprint(compose.device_of(config)))
    view = Live(config.budget.trials, shown) if terminal else Lines(config.budget.trials)
    try:
        result = run_session(config, view, retry_failed, remeasure)
    finally:
        view.close()
    front, study = result.front, result.study
    if not front.members:
        print("no trial is complete and inside the limits; nothing was exported", file=sys.stderr)
        print("".join(_failed_lines(result)), file=sys.stderr, end="")
        return 1
    console = Console(width=None if terminal else 160)
    console.print(table(front, study))
    for line in ties_text(front):
        print(line)
    print(census(front))
    print("".join(_failed_lines(result)), end="")
    print()
    for line in pick_lines(front):
        print(line)
    print(f"\nfiles: {result.exports}  (front.html, front.json, best-config.yaml, models/)")
    print(f"MLflow: {ui_text(Path(config.mlruns), result.page)}")
    return 0


def _failed_lines(result: Result) -> list[str]:
    failed = sum(outcome.status == "failed" for outcome in result.front.outcomes)
    return [f"{failed} failed: {result.log} says why; run --retry-failed tries again\n"] if failed else []


def ui_text(mlruns: Path, page: str) -> str:
    """The exact command that opens the MLflow UI on this store, and the address of `page` there."""
    import shlex

    from search.track.tracker import is_database, tracking_uri, ui_command

    uri = tracking_uri(mlruns)
    if not is_database(uri):  # a server has its own
        return f"{uri.rstrip('/')}{page}"
    return f"{shlex.join(ui_command(mlruns))}  then http://127.0.0.1:5000{page}"


def plan(config: RunConfig) -> int:
    """What would be searched, and what it would cost."""
    from search.planning import plan_lines

    for line in plan_lines(config):
        print(line)
    return 0


def front(mlruns: Path, name: str, as_json: bool, max_latency_ms: float | None, max_loss: float | None) -> int:
    from rich.console import Console

    from search.deliver.best_config import plain
    from search.deliver.stored import stored
    from search.report.text import census, front_json, pick_lines, table

    found, study = stored(mlruns, name)
    found = found.within(max_latency_ms, max_loss)
    _say_unfinished(study)
    if as_json:
        print(json.dumps(plain(front_json(found, study)), indent=1))
        return 0
    if not found.members:
        print(f"no trial of {name} is complete and inside the limits", file=sys.stderr)
        return 1
    Console(width=None if sys.stdout.isatty() else 160).print(table(found, study))
    print(census(found))
    for line in pick_lines(found):
        print(line)
    return 0


def _say_unfinished(study: StudyRecord) -> None:
    """On standard error, where it stands beside what a program reads."""
    if study.unfinished:
        print(
            f"unfinished: {study.unfinished}; where there is no final timing yet, the quick one is shown",
            file=sys.stderr,
        )


def export(mlruns: Path, name: str, pick: str | None, to: Path | None) -> int:
    from search.deliver.export import export as export_front
    from search.deliver.export import export_model
    from search.deliver.stored import stored
    from search.deliver.written import free_place
    from search.measure.graphs import opened_from
    from search.prepare.prepared import cores
    from search.store.store import Store
    from spaces.runtime import Context

    if to is not None:
        free_place(to)
    found, study = stored(mlruns, name)
    _say_unfinished(study)
    store = Store(mlruns / "cache")
    threads = int(study.config["workload"]["threads"] or 0) or cores()
    opened = opened_from(store, Context(str(study.hardware.get("device", "cpu")), threads))
    try:
        if pick is None:
            target = to or mlruns / "exports" / name
            export_front(found, study, target, opened)
        else:
            outcome = found.choose(pick)
            target = to or mlruns / "exports" / name / "picks" / pick
            export_model(found, study, outcome, target, opened)
    finally:
        store.release()
    print(target)
    return 0


def apply(mlruns: Path, path: Path, to: Path | None) -> int:
    """Rebuild, measure, and show both records side by side."""
    from search.deliver.best_config import read_best_config
    from search.deliver.rebuild import rebuild
    from search.deliver.written import free_place
    from search.report.progress import Lines
    from search.space.choices import names

    if to is not None:
        free_place(to)
    record = read_best_config(path)  # its study's name, which the default target has in it, is one folder's
    config = from_mapping(record.config, names(), Source(str(path), path.absolute().parent))
    config = replace(config, mlruns=str(mlruns))
    target = to or mlruns / "exports" / record.study / "rebuilt" / str(record.number)
    for line in rebuild(config, record, target, Lines(1)):
        print(line)
    print(target)
    return 0


def check(folder: Path, mlruns: Path) -> int:
    from search.deliver.verify import check as check_folder

    found = check_folder(folder, mlruns)
    for line in found.lines:
        print(line)
    if found.problem:
        print(f"failed: {found.problem}", file=sys.stderr)
        return 1
    print(found.verdict)
    return 0


def cache(mlruns: Path, max_gb: str | None) -> int:
    """What the stage cache holds, by stage; with `max_gb`, after removing what is over it.

    Raises:
        UserError: there is no cache, or `max_gb` is no number of 0 or more.
    """
    import time

    from search.space.configured import number
    from search.store.store import Store

    store = Store(mlruns / "cache")
    if not store.root.is_dir():
        raise UserError(f"--mlruns: no cache in {mlruns}; a run makes one: python -m search run")
    if max_gb is not None:
        limit = number(max_gb)
        if isinstance(limit, str) or not 0 <= limit < float("inf"):
            raise UserError(f"--max-gb: must be a number of 0 or more, got {max_gb}")
        removed = store.prune(int(limit * 1e9))
        print(f"removed {len(removed)} entries, {sum(e.bytes for e in removed) / 1e9:.2f} GB")
    entries = store.entries()
    for stage in sorted({entry.stage for entry in entries}):
        of_stage = [entry for entry in entries if entry.stage == stage]
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(entry.used for entry in of_stage)))
        size = sum(entry.bytes for entry in of_stage) / 1e9
        print(f"{stage:<12} {len(of_stage):>5} entries  {size:>8.2f} GB  last used {last}")
    print(f"{'in all':<12} {len(entries):>5} entries  {sum(e.bytes for e in entries) / 1e9:>8.2f} GB  {store.root}")
    return 0


def listing() -> int:
    from search.cli.listing import lines

    for line in lines():
        print(line)
    return 0


def ui(mlruns: Path, port: int) -> int:
    """Run the MLflow UI until it is interrupted."""
    from search.track.tracker import ui_command

    if not (mlruns / "mlflow.db").exists() and "MLFLOW_TRACKING_URI" not in os.environ:
        raise UserError(f"--mlruns: no MLflow store in {mlruns}; a run makes one: python -m search run")
    # One worker is enough for one person, and nothing here needs MLflow's ten processes for background jobs.
    command = [*ui_command(mlruns), "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # In a session of its own, so that Ctrl-C is ours: its server would answer it with a traceback.
    with subprocess.Popen(command, env=environment, start_new_session=True) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return 0
