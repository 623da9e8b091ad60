"""What is not searched for lack of a known layout is said before anything is trained, in every task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import command
import families
import pytest

from search.cli.main import main

from .test_question_answering import facts
from .test_similarity import pairs


def planned(tmp_path: Path, family: str, task: str, space: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What `plan` says of a model of this family, in one line."""
    families.save(tmp_path / "model", family, None)
    rows: list[dict[str, Any]] = facts(60, 0) if task == "question-answering" else [dict(row) for row in pairs(60, 0)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = command.write_config(
        tmp_path / "config.yaml",
        task=task,
        model={"name": "model"},
        data={"train": "rows.jsonl", "validation": None, "test": None, "max_length": 16, "doc_stride": 3},
        teacher={"epochs": 0 if task == "sentence-similarity" else 1},
        space=space,
    )
    assert main(["plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("task", ["question-answering", "sentence-similarity"])
def test_a_plan_says_which_axes_are_off(tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = planned(tmp_path, "albert", task, {"distill": "off", "prune": "off"}, capsys)
    assert "the layout of model family 'albert' is not known" in output
    assert "only bits and runtime are searched" in output


def test_a_plan_says_which_knobs_a_known_family_does_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = planned(tmp_path, "mpnet", "sentence-similarity", {"distill": "on", "prune": "on"}, capsys)
    assert "cannot differ from block to block; prune.heads is not searched" in output
