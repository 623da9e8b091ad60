"""Benchmarks: what they promise, and how they say that it is missed. Their figures are not judged here."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import coverage, header, real_service, recorded_world, serving, stages, tasks, zero_shot

ROOT = Path(__file__).parents[2]
ABOUT = {"cpu": "EPYC"}


def arguments(tmp_path: Path, check: bool) -> argparse.Namespace:
    return argparse.Namespace(json=tmp_path / "out.json", check=check)


@pytest.mark.parametrize(
    ("value", "met"), [(0.92, False), (0.93, True), (0.95, True), (0.97, True), (0.98, False), (float("nan"), False)]
)
def test_a_promise_is_met_between_its_bounds(value: float, met: bool) -> None:
    assert header.Promise("coverage", value, 0.93, 0.97).met is met


def test_under_check_a_missed_promise_is_named_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promises = [header.Promise("held", 0.95, 0.9), header.Promise("broken", 0.5, 0.9)]
    assert header.finish(arguments(tmp_path, True), ABOUT, [], promises) == 1
    error = capsys.readouterr().err
    assert "missed: broken: promised >= 0.9, measured 0.5" in error
    assert "held" not in error
    assert header.finish(arguments(tmp_path, False), ABOUT, [], promises) == 0
    assert header.finish(arguments(tmp_path, True), ABOUT, [], promises[:1]) == 0


def test_the_file_holds_hardware_figures_and_promises(tmp_path: Path) -> None:
    header.finish(arguments(tmp_path, False), ABOUT, [{"x": 1}], [header.Promise("held", 0.95, 0.9)])
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["hardware"], written["figures"]) == (ABOUT, [{"x": 1}])
    assert written["promises"][0]["met"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_table_lines_up() -> None:
    assert header.table(("a", "number"), [("long name", 1), ("b", 22)]).splitlines() == [
        "a          number",
        "-----------------",
        "long name       1",
        "b              22",
    ]


@pytest.mark.parametrize(
    "program",
    [
        ("-m", "benchmarks.coverage"),
        ("-m", "benchmarks.repeatability"),
        ("-m", "benchmarks.memory"),
        ("-m", "benchmarks.zero_shot"),
        ("benchmarks/cost.py",),
    ],
    ids=lambda program: program[-1],
)
def test_every_benchmark_is_a_module_or_a_script_with_the_same_options(program: tuple[str, ...]) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}  # where the packages are installed, it is not needed
    command = [sys.executable, *program, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert all(option in done.stdout for option in ("--quick", "--json", "--check", "exit 1"))


def test_the_header_has_the_command_of_a_module_or_of_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["benchmarks/cost.py", "--quick"])
    assert header.command_line() == "python benchmarks/cost.py --quick"
    main.__spec__ = ModuleSpec("benchmarks.cost", None)
    assert header.command_line() == "python -m benchmarks.cost --quick"


def test_simulated_repetitions_depend_on_their_seed_alone_and_cover_about_as_promised() -> None:
    quick, long = coverage.TIERS
    runs = [coverage.repetition(case, quick, seed)[0] for case in coverage.CASES for seed in range(25)]
    again = coverage.repetition(coverage.CASES[0], quick, 3)[0]
    assert again == runs[3]
    # 150 repetitions of 0.95 stay above this 99.9 % of the time.
    assert sum(run.includes(coverage.RATIO) for run in runs) >= 133
    over_pairs = [coverage.repetition(case, long, 0)[0] for case in coverage.CASES]
    assert sum(run.includes(coverage.RATIO) for run in over_pairs) >= 4  # of 6, in 99.8 % of the time


def test_the_tasks_table_compares_the_members_with_each_deployment_of_the_uncompressed_model() -> None:
    from tests.search import factory

    front = factory.front()
    compared = tasks.chosen(front, tasks.GOALS["classification"])
    assert list(compared) == [tasks.EAGER, tasks.FP32, tasks.INTEGERS, tasks.BEST]
    assert [compared[name].number for name in (tasks.EAGER, tasks.FP32, tasks.INTEGERS)] == [0, 1, 2]
    within = [member for member in front.members if tasks.lost(front, member) <= 1.0]
    assert compared[tasks.BEST] == min(within, key=lambda member: member.value("latency_p50_ms"))
    rows = tasks.rows_of("classification", front, factory.study(front))
    assert len({len(row) for row in rows}) == 1 and rows[0][3:5] == ("83.2 %", "0.0")
    assert [promise.low for promise in tasks.promises("classification", front)] == [3.0, 6.0]
    none_within = tasks.promises("classification", front.within(max_loss=-1))
    assert [promise.met for promise in none_within] == [False, False]


def test_the_benchmark_of_int8_blocks_measures_the_plans_of_a_search(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import int8_blocks

    int4 = {"precision": "int4", "head": "int8", "rounding": "gptq"}
    plans = [one.plan for one in int8_blocks.deployments_of([0, 8], "gptq")]
    assert plans == [{"precision": "fp32"}, {"precision": "int8"}, int4, {**int4, "int8_blocks": 8}]
    monkeypatch.setattr(sys, "argv", ["int8_blocks", "--blocks", "0", "31"])
    with pytest.raises(SystemExit, match="2"):
        int8_blocks.main()
    assert "--blocks must be between 0 and 30, got 31" in capsys.readouterr().err


def test_each_task_is_judged_by_its_own_factors_in_its_own_time() -> None:
    from search.front.outcome import Outcome
    from search.tasks import TASKS
    from tests.search import factory

    assert set(tasks.GOALS) == {task.name for task in TASKS}
    front = factory.front()
    goal = tasks.GOALS["causal-lm"]
    assert goal == tasks.Goal(most_lost=5.0, over_fp32=2.5, over_eager=5.0, time="tpot_ms")
    within = [member for member in front.members if not member.baseline and tasks.lost(front, member) <= 5]
    slowest = max(within, key=lambda member: member.value("latency_p50_ms"))
    ms = {outcome.number: 40.0 for outcome in front.outcomes} | {1: 20.0, slowest.number: 4.0}

    def with_token_time(outcome: Outcome) -> Outcome:
        timed = factory.measurement("tpot_ms", ms[outcome.number], unit="ms")
        return replace(outcome, measurements={**outcome.measurements, "tpot_ms": timed})

    outcomes = [with_token_time(o) if o.status == "complete" else o for o in front.outcomes]
    timed = replace(front, outcomes=outcomes)
    assert tasks.chosen(timed, goal)[tasks.BEST].number == slowest.number
    assert [(p.value, p.low, p.met) for p in tasks.promises("causal-lm", timed)] == [
        (5.0, 2.5, True),
        (10.0, 5.0, True),
    ]
    assert all("tpot_ms" in promise.what for promise in tasks.promises("causal-lm", timed))
    untimed = tasks.promises("causal-lm", front)  # no token was timed: nothing is promised of whole calls
    assert [promise.met for promise in untimed] == [False, False]
    similar = [promise.low for promise in tasks.promises("sentence-similarity", front)]
    assert similar == [promise.low for promise in tasks.promises("question-answering", front)] == [3.0, 6.0]
    assert [tasks.GOALS[name].most_lost for name in ("question-answering", "sentence-similarity")] == [1.5, 1.0]


def test_what_is_retrieved_untrained_is_measured_among_all_contexts_of_a_file(tmp_path: Path) -> None:
    import numpy as np
    import pyarrow
    from pyarrow import parquet

    words = ("ash", "birch", "cedar", "oak")
    rows = [
        {"context": f"{word} is a tree", "question": f"{word}?", "answers": {"text": [word], "answer_start": [at]}}
        for word, at in zip(words, (0, 1, 0, 0), strict=True)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "trees.parquet")

    def embed(texts: list[str]) -> Any:
        """The word that a text begins with; the question about cedars looks like one about oaks."""
        begins = ["oak" if text == "cedar?" else text.split()[0].strip("?") for text in texts]
        return np.eye(len(words))[[words.index(word) for word in begins]]

    retrieved = zero_shot.measured(tmp_path / "trees.parquet", embed)
    assert (retrieved.questions, retrieved.contexts, retrieved.misplaced) == (4, 4, 1)
    recall, *_ = retrieved.metrics
    assert (recall.objective, recall.value, recall.samples) == ("recall_at_1", 0.75, 4)


def test_latencies_left_out_of_a_recording_are_predicted_from_its_other_models() -> None:
    settings = [
        {"low_rank.rank": 1.0, "distill.width": 1.0, "distill.layers": n, "prune.heads": h, "prune.neurons": h}
        for n in (2, 4, 6)
        for h in (0.25, 0.5, 0.75, 1.0)
    ]
    shapes = recorded_world.Shapes.from_json([recorded_world.shape_of(one).to_json()[0] for one in settings])
    ms = 0.2 + 0.1 * shapes.blocks + 3e-7 * shapes.weights
    few, many = (recorded_world.predicted(shapes, ms, count, 0) for count in (3, 10))
    assert max(few[0], many[0]) < 0.02 and many[1] > few[1]
    assert few[2] == many[2] == 1.0
    with pytest.raises(ValueError, match="rank and width must be 1"):
        recorded_world.shape_of({**settings[0], "low_rank.rank": 0.5})


def test_an_overload_is_over_from_when_98_of_any_100_requests_are_in_time() -> None:
    since = [0.1 * number for number in range(300)]
    late = {3, 5, 9, 150, 299}  # of any hundred from number 4 on two at most
    assert real_service.recovery_s(since, [number not in late for number in range(300)]) == pytest.approx(0.4)
    assert real_service.recovery_s(since, [True] * 300) == 0.0
    assert real_service.recovery_s(since, [number < 290 for number in range(300)]) == float("inf")
    assert real_service.recovery_s(since[:50], [number > 0 for number in range(50)]) == 0.0
    assert real_service.recovery_s(since, [number < 290 for number in range(300)], 0.9) == 0.0


def test_stages_of_several_runs_are_shown_together_the_newest_of_each(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    for load, name, lost in ((0.5, "soak", 3.0), (1.5, "kill", 2.0), (0.1, "soak", 0.0)):
        about = {"date": "2026-11-30", "load": load, "command": f"python {name}"}
        result = stages.StageResult(
            {"lost": lost, "path": tmp_path}, f"{name}: {lost}", [header.Promise(name, lost, high=0)]
        )
        results = stages.join(path, name, about, result)
    assert results == stages.read(path) and list(results) == ["soak", "kill"]
    assert [(p.what, p.value, p.met) for p in stages.promises(results)] == [("soak", 0.0, True), ("kill", 2.0, False)]
    assert stages.table(results).splitlines()[2].split() == ["soak", "2026-11-30", "0.1", "python", "soak"]
    path.write_text("[]")
    with pytest.raises(SystemExit, match="holds no results of stages"):
        stages.read(path)


def test_a_stage_of_the_running_service_must_have_a_front(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serving", "--stages", "simulation", "soak", "kill"])
    with pytest.raises(SystemExit) as ended:
        serving.main()
    assert ended.value.code == 2 and "--stages: kill, soak must have --export DIR" in capsys.readouterr().err
