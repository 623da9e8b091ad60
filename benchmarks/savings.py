"""What a search does not do twice, or at all: whole runs of the embedded default, side by side.

    python -m benchmarks.savings --folder DIR                    cold, the same again, one runtime changed
    python -m benchmarks.savings --folder DIR --quick            16 trials, half of the teacher
    python -m benchmarks.savings --folder DIR --check            exit 1 where a promised figure is missed

Every run is `python -m search run` in a process of its own. "cold" begins with an empty store, "again" and
"changed" with what "cold" left. Seconds to the front are those until the hypervolume is 95 % of what the
run has in the end (log latency and accuracy, from 1.1 times the uncompressed model's latency as it came and the
accuracy of the most frequent class). A run that is in DIR already is not run again. Needs an idle machine, for half an
hour.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import header
from search.front.outcome import LATENCY, Outcome
from search.propose.study import OUTCOME, find_study
from search.propose.surrogate.improvement import Staircase

REACHED = 0.95
CONSTANT_GUESS = 0.5  # two classes, equally frequent
STAGES = ("teacher", "statistics", "weights", "measured")
OTHER = "openvino" if importlib.util.find_spec("openvino") else "compiled"


@dataclass(frozen=True)
class Run:
    """One search: where its results are, and what is set."""

    name: str
    mlruns: str
    sets: tuple[str, ...] = ()


RUNS = (
    Run("cold", "cold"),
    Run("again", "cold"),
    Run("changed", "cold", (f"space.runtime.name=[eager, {OTHER}]",)),
)


def entries(mlruns: Path) -> dict[str, int]:
    """How many entries of each stage the store has."""
    return {stage: len(list((mlruns / "cache" / stage).glob("[!.]*/entry.json"))) for stage in STAGES}


def points_of(mlruns: Path, study: str) -> list[tuple[float, float, float]]:
    """(time told, log ms, accuracy) of all that was measured."""
    stored = find_study(mlruns, study)
    assert stored is not None
    points = []
    for trial in stored.get_trials(deepcopy=False):
        if OUTCOME in trial.user_attrs and isinstance(trial.datetime_complete, datetime):
            outcome = Outcome.from_json(trial.user_attrs[OUTCOME])
            if outcome.status == "complete":
                at = trial.datetime_complete.timestamp()
                points.append((at, math.log(outcome.value(LATENCY)), outcome.value("accuracy")))
    return sorted(points)


def curve(points: list[tuple[float, float, float]], began: float, end: float) -> list[tuple[float, float]]:
    """(seconds, hypervolume) after each outcome."""
    stairs = [Staircase.of([p[1:] for p in points[: n + 1]], (end, CONSTANT_GUESS)).area for n in range(len(points))]
    return [(p[0] - began, area) for p, area in zip(points, stairs, strict=True)]


def measured(run: Run, folder: Path, sets: tuple[str, ...]) -> dict[str, Any]:
    """Figures of one run, from the file beside its results where it was run before."""
    file = folder / f"{run.name}.json"
    if file.exists():
        before: dict[str, Any] = json.loads(file.read_text())
        return before
    mlruns = folder / run.mlruns
    counts, began = entries(mlruns), time.time()
    wanted = [f"--set={one}" for one in (f"mlruns={mlruns}", "budget.timeout=null", *sets, *run.sets)]
    command = [sys.executable, "-m", "search", "run", "--study", run.name, *wanted]
    with (folder / f"{run.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=header.ROOT)
    figures = {
        "seconds": time.time() - began,
        "began": began,
        "entries": {stage: count - counts[stage] for stage, count in entries(mlruns).items()},
        "points": points_of(mlruns, run.name),
        "front": front_of(mlruns, run.name),
    }
    file.write_text(json.dumps(figures, indent=1))
    return figures


def front_of(mlruns: Path, study: str) -> list[dict[str, Any]]:
    exported = json.loads((mlruns / "exports" / study / "front.json").read_text())
    members = {member["number"] for member in exported["members"]}
    return [trial for trial in exported["trials"] if trial["number"] in members]


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--folder", type=Path, required=True, help="where runs and their figures are kept")
    run_of = {run.name: run for run in RUNS}
    default = [run.name for run in RUNS]
    parser.add_argument("--runs", nargs="+", choices=run_of, default=default, help=f"default: {' '.join(default)}")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    about = header.hardware()
    print(header.heading(about), flush=True)
    sets = ("budget.trials=16", "teacher.epochs=0.5") if arguments.quick else ()
    figures: dict[str, dict[str, Any]] = {}
    for run in (run_of[name] for name in dict.fromkeys(("cold", *arguments.runs))):
        figures[run.name] = measured(run, folder, sets)
        print(f"{run.name}: {figures[run.name]['seconds']:.0f} s", flush=True)
    end = math.log(1.1) + figures["cold"]["points"][0][1]
    rows, to_front = [], {}
    for name, one in figures.items():
        steps = curve([tuple(p) for p in one["points"]], one["began"], end)
        to_front[name] = next(s for s, area in steps if area >= REACHED * steps[-1][1])
        rows.append(
            (
                name,
                f"{one['seconds']:.0f}",
                f"{one['seconds'] / figures['cold']['seconds']:.0%}",
                f"{to_front[name]:.0f}",
                f"{steps[-1][1]:.4f}",
                str(len(one["front"])),
                *(str(one["entries"][stage]) for stage in STAGES),
            )
        )
    columns = ("run", "seconds", "of cold", "to the front", "hypervolume", "on the front", *STAGES)
    print("\n" + header.table(columns, rows) + "\nthe last columns: how many of each the run made")
    return header.finish(arguments, about, figures, promises(figures))


def promises(figures: Mapping[str, dict[str, Any]]) -> list[header.Promise]:
    goals, cold = [], figures["cold"]
    if "again" in figures:
        again = figures["again"]
        theirs, ours = ({member["digest"] for member in one["front"]} for one in (cold, again))
        goals += [
            header.Promise("again: seconds of cold", again["seconds"] / cold["seconds"], high=0.1),
            header.Promise("again: teachers, statistics and weights made", _trained(again), high=0),
            header.Promise(
                "again: members of the front in both, of all", len(theirs & ours) / len(theirs | ours), low=1
            ),
        ]
    if "changed" in figures:
        share = figures["changed"]["seconds"] / cold["seconds"]
        goals.append(header.Promise("changed: seconds of cold", share, high=0.2))
    return goals


def _trained(figures: dict[str, Any]) -> float:
    return float(sum(figures["entries"][stage] for stage in ("teacher", "statistics", "weights")))


if __name__ == "__main__":
    sys.exit(main())
