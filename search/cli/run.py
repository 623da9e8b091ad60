"""`python -m search run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.options import ConfigFile, Debug, Mlruns, Overrides, StudyOption, TaskName, Timeout, Trials
from search.cli.terminal import complain, say, show_table

if TYPE_CHECKING:
    from search.compose import Result
    from search.config.schema import RunConfig

EXAMPLE = "python -m search run config.yaml --trials 60 --set workload.batch=8"


def run(
    config: ConfigFile = None,
    task: TaskName = None,
    trials: Trials = None,
    timeout: Timeout = None,
    study: StudyOption = None,
    overrides: Overrides = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="try the trials again that failed in earlier runs")
    ] = False,
    remeasure: Annotated[
        bool,
        typer.Option(
            "--remeasure",
            help="measure again here what the study holds, as after a change of machine or of libraries",
        ),
    ] = False,
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """search, or go on with a search; ends with the front, its files and models"""
    from search.space.configured import configured

    chosen = configured(config, trials, timeout, study, mlruns, overrides or (), task)
    return _shown(chosen, _searched(chosen, retry_failed, remeasure))


def _searched(config: RunConfig, retry_failed: bool, remeasure: bool) -> Result:
    """The search, under a live table where a terminal shows it."""
    from objectives import clock
    from search.compose import run as run_session
    from search.front.study_record import StudyRecord
    from search.prepare.machine import device_of
    from search.report.progress import Lines, LiveTable

    record = StudyRecord(config.to_mapping(), clock.fingerprint(device_of(config)))
    view = LiveTable(config.budget.trials, record) if sys.stdout.isatty() else Lines(config.budget.trials)
    try:
        return run_session(config, view, retry_failed, remeasure)
    finally:
        view.close()


def _shown(config: RunConfig, result: Result) -> int:
    """Print the front and where everything is."""
    from search.report.cache_sentences import slower_caches
    from search.report.store_lines import disk_line
    from search.report.text import census, pick_lines, ties_text
    from search.track.mlflow_store import ui_text

    front = result.front
    failed = sum(outcome.status == "failed" for outcome in front.outcomes)
    notes = [f"{failed} failed: {result.log} says why; run --retry-failed tries again"] if failed else []
    if not front.members:
        for line in ("no trial is complete and inside the limits; nothing was exported", *notes):
            complain(line)
        return 1
    show_table(front, result.study)
    say([*ties_text(front), *slower_caches(front), census(front), *notes, "", *pick_lines(front)])
    print(f"\nfiles: {result.exports}  (front.html, front.json, best-config.yaml, models/)")
    print(disk_line(Path(config.mlruns), result.exports))
    print(f"MLflow: {ui_text(Path(config.mlruns), result.page)}")
    return 0
