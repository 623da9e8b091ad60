"""A teacher that is no better than a constant guess is refused before anything is distilled from it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import command
import numpy as np
import pytest
import tiny

from objectives.quality import CLASS_METRICS as METRICS
from search.errors import UserError
from search.measure import teacher_check
from search.measure.teacher_check import check_teacher, standing
from search.tasks.classification import LabelledRows
from search.tasks.tokens import Encoded

LABELS = ("bad", "good")


def labelled(references: np.ndarray) -> LabelledRows:
    return LabelledRows(Encoded({}, {}, np.zeros(0)), references, LABELS)


def rows(count: int, share: float, right: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(references, predictions): `share` of the rows are of the second label, and `right` of all are predicted so."""
    rng = np.random.default_rng(seed)
    references = (np.arange(count) < share * count).astype(np.int64)
    return references, np.where(rng.random(count) < right, references, 1 - references)


@pytest.mark.parametrize("metric", [metric.name for metric in METRICS])
def test_a_teacher_that_is_good_is_better_and_not_near(metric: str) -> None:
    references, predictions = rows(200, 0.4, 0.9)
    verdict = standing(metric, predictions, labelled(references), 0)
    assert verdict.better and not verdict.near


@pytest.mark.parametrize("metric", [metric.name for metric in METRICS])
@pytest.mark.parametrize("constant", [0, 1])
def test_one_that_says_the_same_of_every_row_is_not(metric: str, constant: int) -> None:
    references, _ = rows(200, 0.4, 1.0)
    assert not standing(metric, np.full_like(references, constant), labelled(references), 0).better


@pytest.mark.parametrize("metric", [metric.name for metric in METRICS])
def test_nor_one_that_guesses_or_that_has_the_labels_in_another_order(metric: str) -> None:
    references, guesses = rows(300, 0.5, 0.5)
    assert not standing(metric, guesses, labelled(references), 0).better
    references, predictions = rows(300, 0.5, 0.95)
    assert not standing(metric, 1 - predictions, labelled(references), 0).better


def test_one_that_is_little_better_than_the_most_frequent_label_is_near() -> None:
    references, predictions = rows(20_000, 0.9, 0.905)
    verdict = standing("accuracy", predictions, labelled(references), 0)
    assert verdict.better and verdict.near
    assert "90.0 % where every row is called" in str(verdict) and '"good", on 20000 validation rows' in str(verdict)


def test_outputs_that_are_no_numbers_are_no_better_than_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(split: str) -> np.ndarray:
        raise ArithmeticError(f"3 of 80 outputs on {split} are infinite or no numbers")

    split = labelled(rows(40, 0.4, 1.0)[0])
    measurer = SimpleNamespace(baseline_predictions=fails)
    monkeypatch.setattr(teacher_check, "Measurer", lambda *_: measurer)
    prepared = SimpleNamespace(
        config=SimpleNamespace(where=str, seed=0, teacher=SimpleNamespace(epochs=1.0)),
        task=SimpleNamespace(supervised=True, labelled=False),
        metric="accuracy",
        split=lambda name: split,
    )
    rule = "^teacher.epochs: .* guess: 3 of 80 outputs on validation are infinite or no numbers; likely: too little"
    with pytest.raises(UserError, match=rule):
        check_teacher(cast(Any, prepared), lambda stage, done: None)


def test_a_head_that_was_never_trained_ends_the_run_before_anything_is_distilled(
    tmp_path: Path, tiny_data: Path
) -> None:
    model = tiny.classifier(tmp_path / "model")
    config = command.write_config(
        tiny_data / "untrained.yaml", model={"name": str(model)}, teacher={"epochs": 0}, metric="f1"
    )
    ended = command.search("run", config, cwd=tmp_path)
    assert ended.code == 2, ended.err
    assert f"{config}: model.name: the teacher must be better than a constant guess: its f1 is" in ended.err
    assert "on 96 validation rows" in ended.err and "never trained (set teacher.epochs)" in ended.err
    assert len(ended.err.splitlines()) <= 2
    alone = command.search("run", config, "--set", "measure.validation_rows=1", cwd=tmp_path)
    command.refused(alone, ["--set measure.validation_rows: must have two rows or more", "got 1"])
    stages = {path.parent.parent.name for path in (tmp_path / "mlruns").glob("cache/*/*/entry.json")}
    assert "teacher" in stages and not stages & {"statistics", "outputs", "weights"}
