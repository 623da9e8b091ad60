"""Numbers come out of every kind of file as they are; what is no finite number is refused by file, column and row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search.errors import UserError
from search.tasks.regression import NumberRows, Regression
from search.tasks.rows import LabelledData
from search.tasks.task import Splits
from search.tasks.tokens import Encoded
from search.tasks.trained_labels import TrainedLabels

VALUES = [round(i / 7 - 3, 3) for i in range(100)]


def written(folder: Path, labels: list[Any], kind: str = "csv") -> str:
    import pyarrow
    from pyarrow import parquet

    path = folder / f"rows.{kind}"
    if kind == "csv":
        path.write_text("text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels)))
    elif kind == "jsonl":
        lines = [json.dumps({"text": f"text {i}", "label": label}) + "\n" for i, label in enumerate(labels)]
        path.write_text("".join(lines))
    else:
        columns = {"text": [f"text {i}" for i in range(len(labels))], "label": labels}
        parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def load(train: str, trained: TrainedLabels | None = None, **settings: Any) -> Splits:
    return Regression().load(LabelledData(train=train, **settings), lambda key: f"c.yaml: {key}", trained)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_numbers(tmp_path: Path, kind: str) -> None:
    splits = load(written(tmp_path, VALUES, kind))
    parts = (splits.train, splits.validation, splits.test)
    labels = {text: label for part in parts for text, label in zip(part.texts, part.labels.tolist(), strict=True)}
    assert labels == {f"text {i}": value for i, value in enumerate(VALUES)}
    assert splits.labels == ("LABEL_0",)
    assert load(written(tmp_path, VALUES, kind), TrainedLabels(("stars",))).labels == ("stars",)


def test_the_digest_sees_what_is_behind_the_point(tmp_path: Path) -> None:
    first = load(written(tmp_path, VALUES)).digest
    assert load(written(tmp_path, [*VALUES[:-1], VALUES[-1] + 0.001])).digest != first


@pytest.mark.parametrize("text", ["1e3", " 2.5", "-3", "+.5", "4."])
def test_a_number_is_one_however_it_is_written(tmp_path: Path, text: str) -> None:
    splits = load(written(tmp_path, [text] * 50 + [0] * 50))
    assert set(splits.train.labels.tolist()) == {0.0, float(text)}


BAD = [("csv", "nan"), ("csv", "inf"), ("csv", "good"), ("csv", "1_000"), ("csv", ""), ("csv", "1e999")]
BAD_VALUES = [("jsonl", None), ("jsonl", True), ("jsonl", [1.0]), ("parquet", float("nan")), ("parquet", float("inf"))]


@pytest.mark.parametrize(("kind", "value"), [*BAD, *BAD_VALUES])
def test_what_is_no_finite_number_is_refused_by_file_column_and_row(tmp_path: Path, kind: str, value: Any) -> None:
    path = written(tmp_path, [*VALUES, value], kind)
    rule = "must hold finite numbers, since model.problem_type is regression, got "
    with pytest.raises(UserError, match=re.escape(f'c.yaml: data.label: column "label" of {path} {rule}')) as refusal:
        load(path)
    assert "in row 101" in str(refusal.value)


def test_numbers_that_are_all_the_same_and_names_of_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.label: must hold different numbers, got 3.0 in all 100 rows of"):
        load(written(tmp_path, [3] * 100))
    with pytest.raises(UserError, match=r"data.label_names: must be left out where model.problem_type is regression"):
        load(written(tmp_path, VALUES), label_names=("a", "b"))


def test_rows_say_what_they_are() -> None:
    def rows(*values: float) -> NumberRows:
        return NumberRows(Encoded({}, {}, np.zeros(0, dtype=np.int64)), np.array(values), ("LABEL_0",))

    number_rows = rows(1.0, 2.0, 6.0)
    assert number_rows.predictions("pearson", np.array([[1.5], [2.0], [4.0]], dtype=np.float32)).tolist() == [
        1.5,
        2.0,
        4.0,
    ]
    guess = number_rows.constant_guess("pearson")
    assert (guess.predictions.tolist(), guess.text) == ([3.0] * 3, "where every row is given their mean, 3")
    assert (
        number_rows.problem() == ""
        and rows(2.0, 2.0).problem() == "must have rows with different numbers, got 2 rows of 2"
    )
    assert number_rows.details(np.array([1.0, 2.0, 3.0])) == {"rmse": pytest.approx(np.sqrt(3.0))}


@pytest.mark.parametrize(
    ("problem", "outputs", "message"),
    [
        (None, 1, ""),
        ("regression", 1, ""),
        ("regression", 2, "gives 2 numbers a text, not one"),
        (None, 3, "gives 3 numbers a text, not one"),
        ("multi_label_classification", 3, "several labels a text .* set model.problem_type: multi_label_class"),
    ],
)
def test_a_head_of_one_number_is_wanted(problem: str | None, outputs: int, message: str) -> None:
    reason = Regression().unusable(problem, outputs)
    assert bool(reason) == bool(message) and re.search(message, reason)


def test_losses_of_numbers_do_not_depend_on_their_unit() -> None:
    """Grams on numbers of a thousandth the scale are kilograms: what is trained towards is the same."""
    draw = np.random.default_rng(0)
    values = draw.normal(5.0, 2.0, 50)
    output, other = (torch.tensor(draw.normal(5.0, 2.0, (50, 1))) for _ in range(2))
    targets, mask = torch.tensor(values), torch.ones(50, 4)
    losses = []
    for unit in (1.0, 1000.0):
        task = Regression().fitted(values * unit)
        assert (task.mean, task.scale) == pytest.approx((values.mean() * unit, values.std() * unit))
        losses.append(
            [
                task.loss(output * unit, targets * unit, mask),
                task.soft_loss(output * unit, other * unit, mask, 2.0),
                task.divergence(output * unit, other * unit, mask),
                task.certainty(output * unit, mask),
            ]
        )
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    error = (output[:, 0] - targets) / values.std()
    torch.testing.assert_close(losses[0][0], error.square().mean(), check_dtype=False)
