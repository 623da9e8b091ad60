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

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import header

from search.front.outcome import LATENCY
from search.tasks import TASKS

LOSS = "quality_loss"
#: Points of the metric that a member may lose, by task.
MOST_LOST = {"classification": 1.0, "question-answering": 1.5, "sentence-similarity": 1.0}
#: Speedups that are promised within that: over the best uncompressed fp32 deployment, and over eager fp32.
OVER_FP32, OVER_EAGER = 3.0, 6.0
QUICK = ("--trials", "5", "--set", "data.limit=200", "--set", "measure.quick_s=0.5", "--set", "measure.final_s=1")


def searched(task: str, folder: Path, quick: bool) -> dict[str, Any]:
    """front.json of the task's example, searched in `folder`."""
    mlruns = folder / "mlruns"
    command = [sys.executable, "-m", "search", "run", "--task", task, "--study", task, "--mlruns", str(mlruns)]
    with (folder / f"{task}.log").open("a") as log:
        wanted = [*command, *(QUICK if quick else ())]
        subprocess.run(wanted, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=header.ROOT)
    found: dict[str, Any] = json.loads((mlruns / "exports" / task / "front.json").read_text())
    return found


def ms(trial: dict[str, Any]) -> float:
    return float(trial["measurements"][LATENCY]["value"])


def lost(trial: dict[str, Any]) -> float:
    return float(trial["measurements"][LOSS]["value"])


def deployment(trial: dict[str, Any]) -> tuple[str, str]:
    return trial["params"]["runtime.name"], trial["params"].get("bits.precision", "fp32")


def chosen(front: dict[str, Any], most_lost: float) -> dict[str, dict[str, Any]]:
    """The trials that are compared, by what they are."""
    complete = [trial for trial in front["trials"] if trial["status"] == "complete"]
    plain = [trial for trial in complete if all(name.startswith(("bits.", "runtime.")) for name in trial["params"])]
    timed = [trial for trial in plain if not trial["params"].keys() - {"bits.precision", "runtime.name"}]
    made = {
        "uncompressed, eager fp32": next(t for t in timed if deployment(t) == ("eager", "fp32")),
        "uncompressed, fastest fp32": min((t for t in timed if deployment(t)[1] == "fp32"), key=ms),
        "uncompressed, fastest": min(timed, key=ms),
    }
    good = [member for member in front["members"] if lost(member) <= most_lost]
    if good:
        made[f"fastest that loses at most {most_lost:g}"] = min(good, key=ms)
    return made


def rows_of(task: str, front: dict[str, Any]) -> list[tuple[str, ...]]:
    compared, rows = chosen(front, MOST_LOST[task]), []
    first, second = list(compared.values())[:2]
    for what, trial in compared.items():
        found, tested = trial["measurements"], trial.get("held_out", {}).get(front["metric"])
        peak = found.get("peak_memory_mb")
        rows.append(
            (
                task,
                what,
                " ".join(deployment(trial)),
                f"{100 * found[front['metric']]['value']:.1f}",
                f"{lost(trial):.1f}",
                "" if tested is None else f"{100 * tested['value']:.1f}",
                f"{ms(trial):.2f}",
                f"{ms(first) / ms(trial):.1f}",
                f"{ms(second) / ms(trial):.1f}",
                f"{found['size_mb']['value']:.1f}",
                "" if peak is None else f"{peak['value']:.0f}",
            )
        )
    return rows


def promises(task: str, front: dict[str, Any]) -> list[header.Promise]:
    compared = chosen(front, MOST_LOST[task])
    eager, fp32, *_ = compared.values()
    best = compared.get(f"fastest that loses at most {MOST_LOST[task]:g}")
    over = (0.0, 0.0) if best is None else (ms(fp32) / ms(best), ms(eager) / ms(best))
    within = f"{task}, within {MOST_LOST[task]:g} points"
    return [
        header.Promise(f"{within}: over the best uncompressed fp32", over[0], low=OVER_FP32),
        header.Promise(f"{within}: over eager fp32", over[1], low=OVER_EAGER),
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
    print(header.table(columns, [row for task, front in fronts.items() for row in rows_of(task, front)]))
    for task, front in fronts.items():
        print(f"{task}: {front['metric']}, {front['seconds']:.0f} s, {len(front['trials'])} trials")
    kept = [promise for task, front in fronts.items() for promise in promises(task, front)]
    figures = {task: chosen(front, MOST_LOST[task]) for task, front in fronts.items()}
    return header.finish(arguments, about, figures, kept)


if __name__ == "__main__":
    sys.exit(main())
