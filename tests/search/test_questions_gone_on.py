"""A search of question answering that is killed or interrupted goes on where it was."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import command
import tiny
from conftest import STUDY, state_of

from .gone_on import finished_well, kept
from .test_question_answering import facts

TRIALS = 3  # the baseline, and two that are trained


def run(config: Path) -> command.Started:
    return command.Started("run", config, "--trials", TRIALS, *command.PLAIN, cwd=config.parent)


def test_a_kill_and_ctrl_c_lose_nothing_that_was_finished(tmp_path: Path) -> None:
    tiny.bert(tmp_path / "model")
    for seed, (name, count) in enumerate((("train", 200), ("validation", 40), ("test", 40))):
        lines = [json.dumps(row) for row in facts(count, seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    config = command.write_config(
        tmp_path / "config.yaml",
        study=STUDY,
        task="question-answering",
        model={"name": "model"},
        data={**splits, "max_length": 12, "doc_stride": 3},
        teacher={"epochs": 6},
        workload={"length": "data"},
    )
    mlruns = tmp_path / "mlruns"
    run(config).until("recovery ...").send(signal.SIGKILL).end()
    state = state_of(mlruns)
    assert state.outcomes, "the baseline was told before anything was trained"
    again = run(config).until("recovery ...")
    assert not any("teacher ..." in line for line in again.seen)
    ended = again.send(signal.SIGINT).end().succeeded()
    assert "stopped by Ctrl-C; exporting the front so far (the same command goes on)" in ended.out
    state = kept(mlruns, state)
    ended = run(config).end()
    kept(mlruns, state)
    finished_well(mlruns, ended, TRIALS)
