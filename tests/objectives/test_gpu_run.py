"""The run for a GPU machine: every stage at toy size on the CPU, and what a stage leaves that fails or is late."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import command
import pytest

from benchmarks.gpu import run, task_front
from benchmarks.gpu.run_setup import RunSetup
from objectives import campaign

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "gpu"
RUNNER = """
from benchmarks.gpu import run
from benchmarks.gpu.run_setup import RunSetup
stages = [run.Stage(name, name, limit) for name, limit in {stages!r}]
failures = run.run(stages, RunSetup(run.Path({out!r}), dry=True), {seconds})
print(failures)
"""
FINE = """
def run(setup, report):
    report.begin("a fine one", ("a", "b"))
    report.add(a=1, b="x" * 200)
    report.note("noted")
"""
FAILING = """
def run(setup, report):
    report.begin("one that fails", ("a",))
    report.add(a=1)
    raise ValueError("planted")
"""
LATE = """
import time
def run(setup, report):
    report.begin("one that never ends", ("a",))
    report.add(a=1)
    time.sleep(60)
"""


def ran(tmp_path: Path, stages: list[tuple[str, float]], seconds: float = 60) -> tuple[int, dict[str, Any], Path]:
    """(failures, what is in the JSON, the output folder) of stages whose modules are in `tmp_path`."""
    out = tmp_path / "out"
    script = RUNNER.format(stages=stages, out=str(out), seconds=seconds)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": paths, "GPU_WORK": str(tmp_path / "work")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    return int(done.stdout.split()[-1]), json.loads((out / "tables.json").read_text()), out


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    for name, text in (("fine", FINE), ("failing", FAILING), ("late", LATE)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_a_stage_that_fails_leaves_its_rows_and_its_traceback_and_the_next_goes_on(modules: Path) -> None:
    failures, data, out = ran(modules, [("failing", 30), ("fine", 30)])
    assert failures == 1
    assert data["stages"]["failing"]["rows"][0]["a"] == 1
    assert data["stages"]["failing"]["state"].startswith("FAILED")
    assert data["stages"]["fine"]["state"].startswith("done")
    report = (out / "failures.txt").read_text()
    assert "=== failing" in report and "ValueError: planted" in report and "failing.py" in report
    text = (out / "tables.txt").read_text()
    assert "a fine one" in text and "noted" in text and "torch built for CUDA" in text
    assert "x" * 200 not in text and data["stages"]["fine"]["rows"][0]["b"] == "x" * 200
    assert sorted(path.name for path in out.iterdir()) == ["failures.txt", "tables.json", "tables.txt"]


def test_a_stage_that_is_late_is_stopped_with_its_rows_and_says_where_it_was(modules: Path) -> None:
    failures, data, out = ran(modules, [("late", 2.5), ("fine", 30)])
    assert failures == 0
    assert data["stages"]["late"]["rows"][0]["a"] == 1
    assert "stopped after its 2 s" in data["stages"]["late"]["state"]
    assert "late.py" in (out / "failures.txt").read_text()
    assert data["stages"]["fine"]["state"].startswith("done")


def test_no_stage_begins_when_the_time_of_all_is_over_and_tables_of_other_stages_stay(modules: Path) -> None:
    ran(modules, [("fine", 30)])
    _, data, out = ran(modules, [("failing", 30)], seconds=1)
    assert "no time was left" in data["stages"]["failing"]["state"]
    assert data["stages"]["fine"]["rows"] and "a fine one" in (out / "tables.txt").read_text()


def test_the_readme_names_every_stage_with_its_limit_and_all_of_them_fit_into_eight_minutes() -> None:
    script = "from benchmarks.gpu import run; print([[s.name, s.limit_s] for s in run.STAGES])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    stages = json.loads(done.stdout.replace("'", '"'))
    assert sum(limit for _, limit in stages) <= 480
    table = re.findall(r"^\| `([\w-]+)` \| (\d+) s \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert [[name, int(limit)] for name, limit in table] == stages


def test_the_search_for_a_gpu_is_a_configuration_with_the_embedded_default_s_data_and_training(tiny_bert: Path) -> None:
    from search.space.configured import configured

    change = ["device=cpu", f"model.name={tiny_bert}"]
    ours = configured(FOLDER / "search.yaml", None, None, None, None, change)
    default = configured(None, None, None, None, None, change)
    assert ours.budget.trials >= 24 and ours.workload.length == default.workload.length
    for section in ("data", "teacher", "recover", "task", "metric", "seed", "objectives"):
        assert getattr(ours, section) == getattr(default, section)


def start_forked(
    arguments: Sequence[str], environment: Mapping[str, str], limit: float
) -> subprocess.CompletedProcess[str]:
    """A stage in a process that has imported the libraries already: six that do it anew take a minute."""
    env = {**command.environment(), **environment}
    sets = 1 if "benchmarks.gpu.search_front" in arguments else campaign.SETS  # a search opens anew what each set times
    ended = command.forked(FOLDER / "run.py", *arguments, cwd=ROOT, env=env, sets=sets)
    return subprocess.CompletedProcess(list(arguments), ended.code, ended.out, ended.err)


def test_the_dry_run_fills_every_table_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_WORK", str(tmp_path / "work"))
    out = tmp_path / "out"
    shell = "gpu-tests"
    forked = [stage for stage in run.STAGES if stage.name != shell]
    failures = run.run(forked, RunSetup(out, dry=True), 900, start_forked)
    assert failures == 0, (out / "failures.txt").read_text()
    # One as its reader starts it, from the shell, into the same tables.
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [FOLDER / "run.sh", "--dry", out, shell], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{shell}: done" in done.stdout and "the tests that need a GPU" in done.stdout
    stages = json.loads((out / "tables.json").read_text())["stages"]
    assert set(stages) == {stage.name for stage in run.STAGES}
    assert all(stage["rows"] and stage["state"].startswith("done") for stage in stages.values()), stages
    for batch, trials in (("1", [0, 1]), ("32", [0])):
        rows = stages[f"search-batch-{batch}"]["rows"]
        assert [row["trial"] for row in rows] == trials
        assert any(row["on front"] == "yes" and row["test lost"] is not None for row in rows)
        assert all(row["status"] == "complete" and row["ms"] > 0 and row["over best"] > 0 for row in rows)
        assert [goal["what"].split()[0] for goal in stages[f"search-batch-{batch}"]["goals"]] == ["trials", "times"]
    rows = stages["runtimes"]["rows"]
    timed = [row for row in rows if "host_ms" in row]
    assert {row["shape"] for row in timed} == {"whole", "half of heads and neurons", "half of the layers"}
    assert {row["precision"] for row in timed} == {"fp32", "tf32"} and {row["batch"] for row in timed} == {1, 4}
    assert all(row["host_ms"] > 0 and row["floor_ms"] > 0 and row["memory_mb"] > 0 for row in timed)
    assert all(row["error"] < 1e-3 and row["open_s"] > 0 for row in timed if row["batch"] == 1)
    reasons = {row["precision"]: row["note"] for row in rows if "host_ms" not in row}
    assert "CUDA" in reasons["bf16"] and "fp8 needs" in reasons["fp8"] and "2:4" in reasons["2:4 fp16"]
    assert all(row["check"] == "ok" and row["cpu_ms"] > 0 for row in stages["exports"]["rows"])
    kinds = [row["kind"] for row in stages["repeatability"]["rows"]]
    assert kinds == ["quick", "quick", "campaign"] and len(stages["repeatability"]["goals"]) == 2
    assert all(row["outcome"] == "skipped" for row in stages["gpu-tests"]["rows"])


@pytest.mark.parametrize("task", [stage.name for stage in run.ON_REQUEST if stage.module == task_front.__name__])
def test_the_stage_of_a_task_searches_its_embedded_example(tmp_path: Path, task: str) -> None:
    """Its settings hold for the example, and dry there are rows to search over."""
    from search.space.configured import configured

    file = ROOT / "search" / "quickstart" / f"{task}.yaml"
    here = [setting for setting in task_front.OVERRIDES if not setting.startswith(("device", "space.runtime"))]
    config = configured(file, 3, 99.0, task, tmp_path / "mlruns", here)
    assert config.task == task and Path(str(config.data.train)).is_file()
    assert config.data.limit is None and config.budget.timeout == 99.0, "all rows, for as long as the stage has time"
    toy = configured(task_front.toy(tmp_path, task), 1, None, task, tmp_path / "mlruns", [])
    assert toy.task == task and len(Path(str(toy.data.train)).read_text().splitlines()) == 400
