"""The real search on this device: every trial a row as it comes, then the front with its held-out figures.

Searches of several batches share one results folder, so the second finds the teacher and the weights of the first.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks import header
from benchmarks.gpu.run_setup import HERE, RunSetup
from benchmarks.gpu.tables import Report
from search.compose import Result
from search.config.schema import RunConfig
from search.front.formatting import describe
from search.front.front import Front
from search.front.outcome import LATENCY, LOSS, Outcome
from search.report.progress import Lines
from search.report.text import speedups
from search.space.configured import configured

COLUMNS = (
    "trial",
    "recipe",
    "status",
    "ms",
    "device_ms",
    "over eager",
    "over best",
    "accuracy",
    "on front",
    "test",
    "test lost",
    "lost low",
    "lost high",
    "note",
)
TRIALS = 24
#: Points that may be lost on the test split, and how much faster than the best uncompressed deployment that should be.
LOST, FASTER = 1.0, 1.8
#: Of its time a stage keeps for ending.
SPARE_S = 8.0


def run(setup: RunSetup, report: Report, batch: str) -> None:
    report.begin(f"accuracy against latency, batch {batch}, of the embedded default", COLUMNS)
    config = config_of(setup, batch)
    rows = TrialTable(report, config)
    from search.compose import run as search

    result = search(config, rows)
    finish(result, rows, report)
    if any(outcome.status == "failed" for outcome in result.front.outcomes):
        report.failure(f"trials failed; the end of the run's log:\n{log_of(result)}")
    for name in ("front.json", "front.png"):
        source = result.exports / name
        if source.is_file() and not setup.dry:
            shutil.copyfile(source, setup.out / f"batch-{batch}-{name}")


def log_of(result: Result) -> str:
    """The end of the log, where the tracebacks of failed trials are."""
    path = Path(result.log)
    return path.read_text(encoding="utf-8", errors="replace")[-20_000:] if path.is_file() else "no log"


def study_of(batch: str) -> str:
    return f"batch-{batch}"


def results(setup: RunSetup) -> Path:
    return setup.work / "mlruns"


def config_of(setup: RunSetup, batch: str) -> RunConfig:
    """The configuration in `search.yaml`; dry, that of the tests' tiny model."""
    wanted = [f"workload.batch={batch}"]
    if setup.dry:
        file, trials = toy(setup.work), 2 if batch == "1" else 1
    else:
        file, trials = HERE / "search.yaml", TRIALS
        wanted.append(f"model.name={setup.model}")
    limit = None if setup.dry else max(1.0, setup.left_s - SPARE_S)
    return configured(file, trials, limit, study_of(batch), results(setup), wanted)


def toy(folder: Path) -> Path:
    """The configuration of a search over a random model of two layers, with its files."""
    from tests import command, tiny

    model, data = tiny.bert(folder / "bert"), tiny.data(folder / "data", train=256, held_back=64)
    space: dict[str, Any] = {"bits": {"precision": ["fp32"]}, "runtime": {"name": ["eager"]}}
    changes: dict[str, Any] = {"space": space}
    return command.write_config(data / "toy.yaml", model={"name": str(model)}, sampler="random", **changes)


class TrialTable(Lines):
    """A row of the table for every trial, beside the lines that a run prints."""

    def __init__(self, report: Report, config: RunConfig) -> None:
        super().__init__(config.budget.trials)
        self._report, self._metric = report, config.metric
        self.by_trial: dict[int, dict[str, Any]] = {}

    def say(self, line: str) -> None:
        super().say(line)
        if line.strip().startswith(("note:", "stopped", "the time")):
            self._report.note(line.strip())

    def observe(self, outcome: Outcome, front: Front) -> None:
        super().observe(outcome, front)
        self.show(outcome, front)

    def show(self, outcome: Outcome, front: Front) -> None:
        """The row of a trial: a new one, or its figures again."""
        if outcome.number not in self.by_trial:
            self.by_trial[outcome.number] = self._report.add(trial=outcome.number)
        measured = outcome.measurements
        over = speedups(front, outcome) if outcome.status == "complete" else {}
        self._report.fill(
            self.by_trial[outcome.number],
            recipe=describe(outcome.recipe),
            status=outcome.status,
            ms=value_of(measured, LATENCY),
            device_ms=value_of(measured, "device_p50_ms"),
            accuracy=value_of(measured, self._metric),
            **{
                "over eager": (over.get("over_eager_fp32") or {}).get("value"),
                "over best": (over.get("over_best_uncompressed") or {}).get("value"),
                "on front": "" if front.why_not(outcome) else "yes",
            },
            note=outcome.reason or outcome.noise,
            seconds=dict(outcome.seconds),
        )


def value_of(measured: Any, name: str) -> float | None:
    return measured[name].value if name in measured else None


def finish(result: Result, rows: TrialTable, report: Report) -> None:
    """The front as it was decided at the end, with its held-out figures, and the goals."""
    show_front(result, rows, report)
    report.goals(
        [
            header.Promise("trials", len(result.front.outcomes), TRIALS),
            header.Promise(
                f"times faster than the best uncompressed deployment, {LOST:g} point lost or less on the test split",
                fastest_within(report.rows),
                FASTER,
            ),
        ]
    )


def show_front(result: Result, rows: TrialTable, report: Report) -> None:
    """The front as it was decided at the end, with its held-out figures."""
    front, study = result.front, result.study
    for outcome in front.outcomes:
        rows.show(outcome, front)
        held_out = study.held_out.get(outcome.number, {})
        lost = held_out[LOSS].estimate if LOSS in held_out else None
        figures = {"test": value_of(held_out, study.metric)}
        if lost is not None:
            figures |= {"test lost": lost.value, "lost low": lost.low, "lost high": lost.high}
        report.fill(rows.by_trial[outcome.number], **figures)
    report.note(f"{len(front.outcomes)} trials, {len(front.members)} on the front, {study.seconds:.0f} s")


def fastest_within(rows: list[dict[str, Any]]) -> float:
    """Of the front: the largest speedup over the best uncompressed deployment inside the loss; 0 without any."""
    ratios = [
        row["over best"]
        for row in rows
        if row.get("on front") == "yes" and row.get("test lost") is not None and row["test lost"] <= LOST
    ]
    return max((ratio for ratio in ratios if ratio is not None), default=0.0)
