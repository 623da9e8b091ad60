"""The embedded example of each task: the front that is found, against the deployments of the uncompressed model.

    python -m benchmarks.tasks --folder DIR                       all tasks, an hour and a half on two idle cores
    python -m benchmarks.tasks --folder DIR --tasks sentence-similarity
    python -m benchmarks.tasks --folder DIR --tasks question-answering --questions FOLDER     whole files, see below
    python -m benchmarks.tasks --folder DIR --quick               five trials each on 200 rows: that it runs
    python -m benchmarks.tasks --folder DIR [DIR ...] --read      nothing is run: what the studies there hold
    python -m benchmarks.tasks --folder DIR --check               exit 1 where a promised figure is missed

Every example is `python -m search run --task NAME` in a process of its own, with its results in DIR; a study that is
there is resumed, so that the tasks may be run one by one. Shown are the eager, the fastest fp32 and the fastest
integer deployment of the uncompressed model, the fastest member that loses no more than is promised, and the others.
What is promised, and in which time, is a record of each task (`GOALS`). Metric and loss are point values on the
validation split. Speedups of whole calls are the final campaign's paired ratios, those of tokens quotients of medians.

The package holds 6,000 training rows of question answering. `--questions` names a folder with whole files
(`benchmarks.question_splits`), which are cut into the folder DIR and take their place; the table says how many rows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import header, question_splits
from search.deliver.read_study import read_study
from search.errors import UserError, listed
from search.front.formatting import text
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome
from search.front.study_record import StudyRecord
from search.tasks import TASKS
from spaces.axes.bits import INTEGER

EAGER, FP32 = "uncompressed, eager fp32", "uncompressed, fastest fp32"
INTEGERS = "uncompressed, fastest in integers"
BEST = "fastest that loses at most"
QUICK = ("--trials", "5", "--set", "data.limit=200", "--set", "measure.quick_s=0.5", "--set", "measure.final_s=1")
QUESTIONS_HELP = f"question answering on whole files: a folder of {listed(question_splits.SOURCES)}, as .parquet"


@dataclass(frozen=True)
class Goal:
    """What is promised of a task's front."""

    most_lost: float  # by a member, in the unit of the metric's loss
    over_fp32: float  # its speedup over the fastest fp32 deployment of the uncompressed model
    over_eager: float  # and over eager fp32
    time: str  # the name of the measured time, which also decides what is fastest

    def ms(self, outcome: Outcome) -> float:
        """The outcome's time; infinite where it was not measured."""
        measured = outcome.measurements.get(self.time)
        return float("inf") if measured is None else measured.value


GOALS = {
    "classification": Goal(1.0, 3.0, 6.0, LATENCY),
    "question-answering": Goal(1.5, 3.0, 6.0, LATENCY),
    "sentence-similarity": Goal(1.0, 3.0, 6.0, LATENCY),
    "causal-lm": Goal(5.0, 2.5, 5.0, "tpot_ms"),
}


def read_first(folders: Sequence[Path], task: str) -> tuple[Front, StudyRecord]:
    """What the first of the folders that has the task's study holds."""
    there = [folder for folder in folders if (folder / f"{task}.log").is_file()]
    return read_study((there or folders)[0] / "mlruns", task)


def searched(task: str, folder: Path, quick: bool, settings: Sequence[str]) -> tuple[Front, StudyRecord]:
    """The front of the task's example, searched in `folder`, and what its study says beside it.

    A search is given `settings` ("key=value") on top of the example's.
    """
    mlruns = folder / "mlruns"
    command = [sys.executable, "-m", "search", "run", "--task", task, "--study", task, "--mlruns", str(mlruns)]
    with (folder / f"{task}.log").open("a") as log:
        wanted = [*command, *(QUICK if quick else ()), *(part for one in settings for part in ("--set", one))]
        subprocess.run(wanted, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=header.ROOT)
    return read_study(mlruns, task)


def deployment(outcome: Outcome) -> tuple[str, str]:
    return outcome.recipe.runtime.name, str(outcome.recipe.params.get("bits.precision", "fp32"))


def deployment_text(outcome: Outcome) -> str:
    """Runtime and precision, with the number of blocks that stay int8: "onnx int4, 8 blocks int8"."""
    blocks = outcome.recipe.params.get("bits.int8_blocks")
    return " ".join(deployment(outcome)) + (f", {blocks} blocks int8" if blocks else "")


def chosen(front: Front, goal: Goal) -> dict[str, Outcome]:
    """The outcomes that are compared, by what they are; what was not measured is not there."""
    plain = [o for o in front.outcomes if o.status == "complete" and o.baseline]
    picks: dict[str, Outcome] = {}

    def add(what: str, outcomes: Iterable[Outcome]) -> None:
        fastest = min(outcomes, key=goal.ms, default=None)
        if fastest is not None:
            picks[what] = fastest

    add(EAGER, (o for o in plain if deployment(o) == ("eager", "fp32")))
    add(FP32, (o for o in plain if deployment(o)[1] == "fp32"))
    add(INTEGERS, (o for o in plain if deployment(o)[1] in INTEGER))
    add(BEST, (o for o in front.members if lost(front, o) <= goal.most_lost))
    return picks


def lost(front: Front, outcome: Outcome) -> float:
    loss = front.loss(outcome)
    return float("inf") if loss is None else loss.value


def times_faster(front: Front, outcome: Outcome | None, over: Outcome | None, goal: Goal) -> float:
    """The ratio of their times; 0 without a model, NaN where it was not measured."""
    if outcome is None:
        return 0.0
    if goal.time != LATENCY:  # only whole calls are timed in pairs
        return float("nan") if over is None else goal.ms(over) / goal.ms(outcome)
    speedup = front.speedup(outcome, over)
    return float("nan") if speedup is None else speedup.value


def rows_of(task: str, front: Front, study: StudyRecord) -> list[tuple[str, ...]]:
    goal = GOALS[task]
    compared = chosen(front, goal)
    named = {outcome.number for outcome in compared.values()}
    others = [(f"member {o.number}", o) for o in front.members if o.number not in named]
    rows = []
    for what, outcome in (*compared.items(), *others):
        tested = study.held_out.get(outcome.number, {}).get(study.metric)
        peak = outcome.measurements.get("peak_memory_mb")
        rows.append(
            (
                task,
                f"{what} {goal.most_lost:g} {front.loss_unit}" if what == BEST else what,
                deployment_text(outcome),
                text(outcome.measurements[study.metric]),
                f"{lost(front, outcome):.1f}",
                "" if tested is None else text(tested),
                f"{goal.ms(outcome):.2f}",
                *(f"{times_faster(front, outcome, compared.get(base), goal):.1f}" for base in (EAGER, FP32)),
                f"{outcome.value('size_mb'):.1f}",
                "" if peak is None else f"{peak.value:.0f}",
            )
        )
    return rows


def promises(task: str, front: Front) -> list[header.Promise]:
    goal = GOALS[task]
    compared = chosen(front, goal)
    within = f"{task}, within {goal.most_lost:g} {front.loss_unit}, {goal.time}"
    best = compared.get(BEST)
    return [
        header.Promise(f"{within}: over {what}", times_faster(front, best, compared[what], goal), low=factor)
        for what, factor in ((FP32, goal.over_fp32), (EAGER, goal.over_eager))
        if what in compared
    ]


def cut_questions(parser: argparse.ArgumentParser, source: Path, folder: Path, tasks: list[str]) -> dict[str, Path]:
    """The splits of the whole files in `source`, written beside the results; ends the program where it has none."""
    if question_splits.TASK not in tasks:
        parser.error(f"--questions: only with {question_splits.TASK} among --tasks, got {listed(tasks)}")
    try:
        return question_splits.write_splits(source, folder / "questions")
    except UserError as error:
        parser.error(f"--questions: {error}")


def main() -> int:
    parser = header.options(__doc__ or "")
    names = [task.name for task in TASKS]
    parser.add_argument("--folder", type=Path, nargs="+", required=True, help="where the results are kept")
    parser.add_argument("--read", action="store_true", help="run nothing: show what the studies in the folder hold")
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    parser.add_argument("--questions", type=Path, metavar="FOLDER", help=QUESTIONS_HELP)
    arguments = parser.parse_args()
    folders = [folder.absolute() for folder in arguments.folder]
    if len(folders) > 1 and not arguments.read:
        parser.error("--folder: several only with --read")
    folder = folders[0]
    settings: dict[str, list[str]] = {}
    said = []
    if arguments.questions is not None:
        files = cut_questions(parser, arguments.questions, folder, arguments.tasks)
        settings[question_splits.TASK] = question_splits.settings(files)
        said.append(f"{question_splits.TASK}: {question_splits.described(files)}, of {arguments.questions}")
    folder.mkdir(parents=True, exist_ok=True)
    about = header.hardware()
    print(header.heading(about), *said, sep="\n", flush=True)
    fronts = {
        task: read_first(folders, task)
        if arguments.read
        else searched(task, folder, arguments.quick, settings.get(task, ()))
        for task in arguments.tasks
    }
    columns = ("task", "model", "deployment", "metric", "lost", "test", "ms", "x eager", "x fp32", "MB", "peak MB")
    print(header.table(columns, [row for task, of_task in fronts.items() for row in rows_of(task, *of_task)]))
    for task, (front, study) in fronts.items():
        print(f"{task}: {study.metric}, ms of {GOALS[task].time}, {study.seconds:.0f} s, {len(front.outcomes)} trials")
    goals = [promise for task, (front, _) in fronts.items() for promise in promises(task, front)]
    figures = {
        task: {what: outcome.to_json() for what, outcome in chosen(front, GOALS[task]).items()}
        for task, (front, _) in fronts.items()
    }
    return header.finish(arguments, about, figures, goals)


if __name__ == "__main__":
    sys.exit(main())
