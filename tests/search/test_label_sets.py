"""Several labels a text come out of lists and columns; what is neither is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.errors import UserError
from search.tasks.multi_label import LabelSetRows, MultiLabel
from search.tasks.rows import LabelledData
from search.tasks.task import Splits
from search.tasks.tokens import Encoded
from search.tasks.trained_labels import TrainedLabels

TASK = MultiLabel()
LISTS: list[list[str]] = [["warm"], ["dull", "noisy"], [], ["noisy"], ["warm", "noisy"]] * 20
NAMES = ("dull", "noisy", "warm")
SETS = [[int(name in own) for name in NAMES] for own in LISTS]


def written(folder: Path, labels: list[Any], kind: str = "jsonl") -> str:
    """A file of texts with these labels."""
    import pyarrow
    from pyarrow import parquet

    path = folder / f"rows.{kind}"
    records = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    if kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        cells = [json.dumps(label).replace('"', '""') for label in labels]
        path.write_text("text,label\n" + "".join(f'text {i},"{cell}"\n' for i, cell in enumerate(cells)))
    return str(path)


def load(train: str, trained: TrainedLabels | None = None, **settings: Any) -> Splits:
    return TASK.load(LabelledData(train=train, **settings), lambda key: f"c.yaml: {key}", trained)


def found(splits: Splits) -> dict[str, list[int]]:
    parts = (splits.train, splits.validation, splits.test)
    return {text: row for part in parts for text, row in zip(part.texts, part.labels.tolist(), strict=True)}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_sets(tmp_path: Path, kind: str) -> None:
    splits = load(written(tmp_path, LISTS, kind))
    assert splits.labels == NAMES
    assert found(splits) == {f"text {i}": row for i, row in enumerate(SETS)}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_lists_of_numbers_are_lists_of_labels(tmp_path: Path, kind: str) -> None:
    splits = load(written(tmp_path, [[NAMES.index(name) + 9 for name in own] for own in LISTS], kind))
    assert splits.labels == ("9", "10", "11")
    assert found(splits) == {f"text {i}": row for i, row in enumerate(SETS)}


@pytest.mark.parametrize("truth", [("0", "1"), ("false", "True"), ("0.0", "1.0")])
def test_columns_of_0_and_1_are_labels_in_the_order_they_are_listed(tmp_path: Path, truth: tuple[str, str]) -> None:
    path = tmp_path / "rows.csv"
    lines = [",".join(truth[int(name in own)] for name in ("warm", "dull", "noisy")) for own in LISTS]
    path.write_text("text,warm,dull,noisy\n" + "".join(f"text {i},{line}\n" for i, line in enumerate(lines)))
    splits = load(str(path), label=("warm", "noisy", "dull"))
    assert splits.labels == ("warm", "noisy", "dull")
    assert found(splits) == {f"text {i}": [row[2], row[1], row[0]] for i, row in enumerate(SETS)}
    bare = load(str(path), TrainedLabels(("LABEL_0", "LABEL_1", "LABEL_2")), label=("warm", "noisy", "dull"))
    assert bare.labels == ("warm", "noisy", "dull"), "what has no names takes those of the columns"
    named = load(str(path), TrainedLabels(("Noisy", "Warm", "Dull")), label=("warm", "noisy", "dull"))
    assert named.labels == ("Noisy", "Warm", "Dull")
    assert found(named) == {f"text {i}": [row[1], row[2], row[0]] for i, row in enumerate(SETS)}


def test_names_of_a_data_set_come_along_in_lists_too(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    features = Features({"text": Value("string"), "label": Sequence(ClassLabel(names=["warm", "noisy", "dull"]))})
    columns = {"text": [f"text {i}" for i in range(len(LISTS))], "label": LISTS}
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "rows.parquet")
    splits = load(str(tmp_path / "rows.parquet"))
    assert splits.labels == ("warm", "noisy", "dull")
    assert found(splits) == {f"text {i}": [row[2], row[1], row[0]] for i, row in enumerate(SETS)}


def test_the_digest_sees_every_label(tmp_path: Path) -> None:
    first = load(written(tmp_path, LISTS)).digest
    assert load(written(tmp_path, [*LISTS[:-1], ["warm", "dull"]])).digest != first


BAD = [
    ([*LISTS, "warm"], r'must hold lists of labels, as \["a", "b"\] .*, got "warm" in row 101'),
    ([*LISTS, "[warm]"], r'must hold lists of labels, .*, got "\[warm\]" in row 101'),
    ([*LISTS, None], r"must hold lists of labels, .*, got a missing value in row 101"),
    ([*LISTS, [None]], r"must hold classes \(whole numbers or names\), got a missing value in row 101"),
    ([*LISTS, [["warm"]]], r"must hold classes"),
    ([*LISTS, [0.5]], r"must hold classes \(whole numbers or names\), got 0.5 in row 101"),
    ([*[[1], [2]] * 50, [3, "nan"]], r"must hold classes .*, got a missing value in row 101"),
    ([*LISTS, [1, 0, 1]], r"must list a label once \(0 and 1 for each label stand in a column each"),
    ([[]] * 100, r'no row of .* has a label in column "label"'),
    ([["warm"], []] * 50, r'must have at least two classes, got only "warm"'),
]


@pytest.mark.parametrize(("labels", "message"), BAD)
def test_what_is_no_list_of_labels_is_refused(tmp_path: Path, labels: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=f"c.yaml: data.label: .*{message}|c.yaml: data.label: {message}"):
        load(written(tmp_path, labels))


@pytest.mark.parametrize(
    ("cell", "columns", "message"),
    [
        ("2", ("warm", "dull"), r'column "dull" of .* must hold 0 or 1 \(false or true\), got "2" in row 2'),
        ("", ("warm", "dull"), r"must hold 0 or 1 \(false or true\), got a missing value in row 2"),
        ("0", ("warm", "dull"), r'no row of .* has a 1 in the column "dull"; leave it out'),
        ("1", ("warm", "warm"), "must be different columns"),
        ("1", ("warm", "dul"), r'no column "dul"; did you mean "dull"\?|unknown column "dul"'),
    ],
)
def test_columns_hold_0_and_1(tmp_path: Path, cell: str, columns: tuple[str, ...], message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,warm,dull\n" + f"a,1,0\nb,0,{cell}\n" + "c,1,0\n" * 100)
    with pytest.raises(UserError, match=rf"c.yaml: data.label: .*({message})"):
        load(str(path), label=columns)


def test_a_label_that_only_another_split_has_is_refused(tmp_path: Path) -> None:
    train = written(tmp_path, LISTS)
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": ["warm", "odd"]}\n')
    with pytest.raises(UserError, match=r'test has labels that train has not: "odd" \(train has "dull", "noisy"'):
        load(train, test=str(tmp_path / "test.jsonl"))


def rows(references: list[list[int]]) -> LabelSetRows:
    return LabelSetRows(Encoded({}, {}, np.zeros(0, dtype=np.int64)), np.array(references, dtype=np.int8), NAMES)


def test_rows_are_given_the_labels_whose_probability_is_above_one_half() -> None:
    label_rows = rows(SETS)
    assert label_rows.predictions("f1_micro", np.array([[-1.0, 0.1, 3.0], [0.0, -0.1, -2.0]])).tolist() == [
        [0, 1, 1],
        [0, 0, 0],
    ]
    assert label_rows.constant_guess("f1_macro").text == 'where every row is given "dull", "noisy", "warm"'
    assert label_rows.problem() == ""
    assert rows([[0, 1, 1]] * 4).problem() == 'must have rows with different labels, got 4 rows of "noisy", "warm"'
    assert rows([[0, 0, 0]] * 4).problem() == "must have rows with different labels, got 4 rows of no label"
