"""The embedded example of each task: the front that is found, against the deployments of the uncompressed model.

    python benchmarks/tasks.py --folder DIR                       all tasks, an hour and a half on two idle cores
    python benchmarks/tasks.py --folder DIR --tasks sentence-similarity
    python benchmarks/tasks.py --folder DIR --quick               five trials each on 200 rows: that it runs
    python benchmarks/tasks.py --folder DIR --check               exit 1 where a promised figure is missed

Every example is `python -m search run --task NAME` in a process of its own, with its results in DIR; a study that is
there is gone on with. Shown are the eager, the fastest fp32 and the fastest of all deployments of the uncompressed
model, and the fastest member that loses no more than is promised, by the point value on the validation split. Speedups
are ratios of the final campaign's clock times.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import header

from search.deliver.stored import stored
from search.front.front import Front
from search.front.outcome import LATENCY, LOSS, Outcome
from search.front.study_record import StudyRecord
from search.tasks import TASKS

BEST = "fastest that loses at most"
#: Points of the metric that a member may lose, by task.
MOST_LOST = {"classification": 1.0, "question-answering": 1.5, "sentence-similarity": 1.0}
#: Speedups that are promised within that: over the best uncompressed fp32 deployment, and over eager fp32.
OVER_FP32, OVER_EAGER = 3.0, 6.0
QUICK = ("--trials", "5", "--set", "data.limit=200", "--set", "measure.quick_s=0.5", "--set", "measure.final_s=1")


def searched(task: str, folder: Path, quick: bool) -> tuple[Front, StudyRecord]:
    """The front of the task's example, searched in `folder`, and what its study says beside it."""
    mlruns = folder / "mlruns"
    command = [sys.executable, "-m", "search", "run", "--task", task, "--study", task, "--mlruns", str(mlruns)]
    with (folder / f"{task}.log").open("a") as log:
        wanted = [*command, *(QUICK if quick else ())]
        subprocess.run(wanted, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=header.ROOT)
    return stored(mlruns, task)


def deployment(outcome: Outcome) -> tuple[str, str]:
    return outcome.recipe.runtime.name, str(outcome.recipe.params.get("bits.precision", "fp32"))


def chosen(front: Front, most_lost: float) -> dict[str, Outcome]:
    """The outcomes that are compared, by what they are: eager fp32 first, then the fastest fp32."""
    plain = [o for o in front.outcomes if o.status == "complete" and o.baseline]

    def fastest(outcomes: Iterable[Outcome]) -> Outcome:
        return min(outcomes, key=lambda outcome: outcome.value(LATENCY))

    picks = {
        "uncompressed, eager fp32": next(o for o in plain if deployment(o) == ("eager", "fp32")),
        "uncompressed, fastest fp32": fastest(o for o in plain if deployment(o)[1] == "fp32"),
        "uncompressed, fastest": fastest(plain),
    }
    good = [member for member in front.members if member.value(LOSS) <= most_lost]
    if good:
        picks[BEST] = fastest(good)
    return picks


def rows_of(task: str, front: Front, study: StudyRecord) -> list[tuple[str, ...]]:
    compared, rows = chosen(front, MOST_LOST[task]), []
    eager, fp32 = (outcome.value(LATENCY) for outcome in list(compared.values())[:2])
    for what, outcome in compared.items():
        tested = study.held_out.get(outcome.number, {}).get(study.metric)
        peak, ms = outcome.measurements.get("peak_memory_mb"), outcome.value(LATENCY)
        rows.append(
            (
                task,
                f"{what} {MOST_LOST[task]:g}" if what == BEST else what,
                " ".join(deployment(outcome)),
                f"{100 * outcome.value(study.metric):.1f}",
                f"{outcome.value(LOSS):.1f}",
                "" if tested is None else f"{100 * tested.value:.1f}",
                f"{ms:.2f}",
                f"{eager / ms:.1f}",
                f"{fp32 / ms:.1f}",
                f"{outcome.value('size_mb'):.1f}",
                "" if peak is None else f"{peak.value:.0f}",
            )
        )
    return rows


def promises(task: str, front: Front) -> list[header.Promise]:
    compared = chosen(front, MOST_LOST[task])
    eager, fp32 = (outcome.value(LATENCY) for outcome in list(compared.values())[:2])
    best = compared[BEST].value(LATENCY) if BEST in compared else float("inf")
    within = f"{task}, within {MOST_LOST[task]:g} points"
    return [
        header.Promise(f"{within}: over the best uncompressed fp32", fp32 / best, low=OVER_FP32),
        header.Promise(f"{within}: over eager fp32", eager / best, low=OVER_EAGER),
    ]


def main() -> int:
    parser = header.options(__doc__ or "")
    names = [task.name for task in TASKS]
    parser.add_argument("--folder", type=Path, required=True, help="where the results are kept")
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    about = header.hardware()
    print(header.heading(about), flush=True)
    fronts = {task: searched(task, folder, arguments.quick) for task in arguments.tasks}
    columns = ("task", "model", "deployment", "metric %", "lost", "test %", "ms", "x eager", "x fp32", "MB", "peak MB")
    print(header.table(columns, [row for task, of_task in fronts.items() for row in rows_of(task, *of_task)]))
    for task, (front, study) in fronts.items():
        print(f"{task}: {study.metric}, {study.seconds:.0f} s, {len(front.outcomes)} trials")
    goals = [promise for task, (front, _) in fronts.items() for promise in promises(task, front)]
    figures = {
        task: {what: outcome.to_json() for what, outcome in chosen(front, MOST_LOST[task]).items()}
        for task, (front, _) in fronts.items()
    }
    return header.finish(arguments, about, figures, goals)


if __name__ == "__main__":
    sys.exit(main())
