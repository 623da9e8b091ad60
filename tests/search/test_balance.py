"""Labels that are nearly everywhere, nearly nowhere, or not in every split are said at the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from search.tasks import task_named
from search.tasks.balance import balance_notes
from search.tasks.rows import LabelledData
from search.tasks.trained_labels import TrainedLabels


def test_nothing_is_said_of_labels_that_are_everywhere() -> None:
    even = np.arange(100) % 2
    assert balance_notes({"train": even, "validation": even, "test": even}, ("no", "yes")) == []
    numbers = np.zeros(100)
    assert balance_notes({"train": numbers}, ("LABEL_0",)) == []


def test_a_label_that_is_nearly_everywhere_nearly_nowhere_or_missing_is_named() -> None:
    train = np.array([0] * 95 + [1] * 5)
    notes = balance_notes({"train": train, "validation": train, "test": np.zeros(9, dtype=np.int64)}, ("no", "yes"))
    assert notes == [
        '95.0% of the training rows have the label "no"',
        'labels with fewer than 10 training rows: "yes" (5)',
        'test has no rows of the label "yes"',
    ]


def test_of_label_sets_every_label_counts_its_own_rows() -> None:
    train = np.array([[1, 0, 1]] * 90 + [[1, 1, 0]] * 10, dtype=np.int8)
    other = np.array([[1, 0, 0]] * 9, dtype=np.int8)
    assert balance_notes({"train": train, "test": other}, ("a", "b", "c")) == [
        '100.0% of the training rows have the label "a"',
        'test has no rows of the labels "b", "c"',
    ]


def test_a_label_that_only_another_split_has_is_noted_where_the_trained_head_knows_it(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(100)))
    (tmp_path / "test.csv").write_text("text,label\nx,a\ny,b\nz,c\n")
    data = LabelledData(train=str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"))
    splits = task_named("classification").load(data, str, TrainedLabels(("a", "b", "c")))
    assert 'train has no rows of the label "c"' in splits.notes
