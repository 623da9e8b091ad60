"""Rows come out of files unchanged and numbered; what is no usable data is refused by name."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.config.data_files import FORMATS
from search.config.source import embedded
from search.errors import UserError
from search.tasks.classification import Classification
from search.tasks.files import READERS
from search.tasks.rows import LabelledData
from search.tasks.task import Split, Splits

TASK = Classification()
ROWS = [(f"text number {i}", i % 2) for i in range(200)]


def table(folder: Path, rows: list[tuple[Any, Any]], kind: str = "jsonl", name: str = "rows") -> str:
    """A data file of texts and labels."""
    import pyarrow
    from pyarrow import parquet

    path = folder / f"{name}.{kind}"
    records = [{"text": text, "label": label} for text, label in rows]
    if kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif kind == "json":
        path.write_text(json.dumps(records))
    elif kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        tab = {"csv": ",", "tsv": "\t"}[kind]
        path.write_text(
            "".join(f"{text}{tab}{'' if label is None else label}\n" for text, label in [("text", "label"), *rows])
        )
    return str(path)


def load(train: str, **settings: Any) -> Splits:
    return TASK.load(LabelledData(train=train, **settings), lambda key: f"c.yaml: {key}")


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    expected = load(table(tmp_path, ROWS, "jsonl", "expected"))
    read = load(table(tmp_path, ROWS, kind))
    assert read.digest == expected.digest
    assert read.train.texts == expected.train.texts


def test_every_format_a_configuration_accepts_has_a_reader() -> None:
    assert set(FORMATS) == set(READERS)


def test_nothing_is_written_beside_the_users_data(tmp_path: Path) -> None:
    file = Path(table(tmp_path, ROWS, "csv"))
    load(str(file))
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    before = load(table(tmp_path, ROWS, "csv"))
    assert load(table(tmp_path, [*ROWS, ("one more", 1)], "csv")).digest != before.digest


def test_words_that_look_like_missing_values_are_words(tmp_path: Path) -> None:
    rows = [("NA", "null"), ("null", "NA")] * 100
    splits = load(table(tmp_path, [(f"{text} {i}", label) for i, (text, label) in enumerate(rows)], "csv"))
    assert splits.labels == ("NA", "null")


def test_missing_splits_are_cut_disjoint_complete_and_always_the_same(tmp_path: Path) -> None:
    splits = load(table(tmp_path, ROWS))
    parts = [set(part.texts) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(ROWS)
    assert set.union(*parts) == {text for text, _ in ROWS}
    assert len(splits.notes) == 2
    again = load(table(tmp_path, ROWS[::-1], name="reversed"))
    assert set(again.test.texts) == set(splits.test.texts)


def test_equal_texts_are_never_cut_apart(tmp_path: Path) -> None:
    splits = load(table(tmp_path, [(text, label) for text, label in ROWS for _ in range(3)]))
    assert not set(splits.train.texts) & (set(splits.validation.texts) | set(splits.test.texts))


def test_rows_that_are_in_train_and_test_are_noted(tmp_path: Path) -> None:
    test = table(tmp_path, [*ROWS[:3], ("new", 0)], name="test")
    notes = load(
        table(tmp_path, ROWS), test=test, validation=table(tmp_path, [("else", 1), ("other", 0)], name="v")
    ).notes
    assert notes == ("3 of 4 test rows are in train too: its figures will be too good",)


def test_a_limit_takes_some_of_each_class_from_a_sorted_file(tmp_path: Path) -> None:
    splits = load(table(tmp_path, sorted(ROWS, key=lambda row: row[1])), limit=50)
    assert len(splits.train) == 50
    assert min(Counter(splits.train.labels.tolist()).values()) > 10
    assert max(len(splits.validation), len(splits.test)) <= 50


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((1, 0), ("0", "1")),
        ((10, 9), ("9", "10")),
        ((-1, 1), ("-1", "1")),
        ((2.0, 1.0), ("1", "2")),
        ((True, False), ("false", "true")),
        (("no", "yes"), ("no", "yes")),
    ],
)
def test_labels_are_numbered_in_their_order(tmp_path: Path, labels: tuple[Any, Any], names: tuple[str, str]) -> None:
    splits = load(table(tmp_path, [(text, labels[label]) for text, label in ROWS]))
    assert splits.labels == names
    assert set(splits.train.labels.tolist()) == {0, 1}
    assert splits.train.labels.dtype == np.int64


def test_class_names_come_from_the_data_or_from_the_user(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset

    rows = Dataset.from_dict({"text": [t for t, _ in ROWS], "label": [n for _, n in ROWS]})
    path = str(tmp_path / "named.parquet")
    rows.cast_column("label", ClassLabel(names=["bad", "good"])).to_parquet(path)
    assert load(path).labels == ("bad", "good")
    assert load(table(tmp_path, ROWS), label_names=("down", "up")).labels == ("down", "up")
    with pytest.raises(UserError, match=r"c.yaml: data.label_names: must be 2 different names, for 0, 1, got \[.*\]"):
        load(table(tmp_path, ROWS), label_names=("down", "down"))


def test_pairs_are_read_from_their_column(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"a": t, "b": t[::-1], "y": n}) + "\n" for t, n in ROWS))
    train = load(str(file), text="a", text_pair="b", label="y").train
    assert train.pairs == tuple(text[::-1] for text in train.texts)
    assert train.digest != Split(train.texts, None, train.labels).digest


BAD: list[tuple[list[tuple[Any, Any]], dict[str, Any], str]] = [
    (
        ROWS,
        {"text": "txet"},
        r'data.text: in .*rows.jsonl: unknown column "txet"; did you mean "text"\? \(valid: text, label\)',
    ),
    (ROWS, {"label": "y"}, r'data.label: in .*: unknown column "y" \(valid: text, label\)'),
    (ROWS, {"text_pair": "b"}, r'data.text_pair: in .*: unknown column "b"'),
    (
        [(t, 1) for t, _ in ROWS],
        {},
        r"data.label: must have at least two classes, got only 1 in all 200 rows",
    ),
    (
        [("x", 1), (None, 0)],
        {},
        r'data.text: column "text" of .* must hold text, got a missing value in row 2',
    ),
    ([("x", 1), (["y"], 0)], {}, r'must hold text, got \["y"\] in row 2'),
    ([("x", 1), ("\ud83d", 0)], {}, r"must hold text, got .* in row 2"),
    ([*ROWS, ("x", None)], {}, r'data.label: column "label" .* got a missing value in row 201'),
    (
        [(t, i + 0.5) for i, (t, _) in enumerate(ROWS)],
        {},
        r"must hold classes \(whole numbers or names\), got 0.5 in row 1",
    ),
    (
        [(t, i) for i, (t, _) in enumerate(ROWS)],
        {},
        r"must hold classes, got 200 different values in 200 rows",
    ),
    ([(t, t) for t, _ in ROWS], {"label": "text"}, r"must hold classes, got 200 different values"),
    ([(t, ["a"]) for t, _ in ROWS], {}, r'must hold classes .*, got \["a"\] in row 1'),
    (
        [("a", 0), ("b", 1)],
        {},
        r"data.(validation|test): missing, and 2 rows of .* are too few to cut one from",
    ),
]


@pytest.mark.parametrize(("rows", "settings", "message"), BAD)
def test_rows_that_cannot_be_used_are_refused(tmp_path: Path, rows: Any, settings: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(table(tmp_path, rows), **settings)
    text = str(caught.value)
    assert text.startswith("c.yaml: data.")
    assert re.search(message, text), text
    assert text.count("\n") <= 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "text,label\n", "no rows in .*a.csv"),
        ("a.jsonl", "\n", "no rows in .*a.jsonl|cannot be read as jsonl"),
        (
            "a.csv",
            'text,label\n"open',
            r"a.csv cannot be read as csv: row 1 \(line 2\): a quote is opened and never closed",
        ),
        (
            "a.csv",
            b"text,label\n\xe9\xff,1\n",
            r"a.csv cannot be read as csv: byte 0xe9 at 11 \(line 2\) is not UTF-8; .*data.encoding",
        ),
        ("a.json", "{nope", "a.json cannot be read as json: line 1, column 2: Expecting"),
        ("a.parquet", "text", "a.parquet cannot be read as parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"^c.yaml: data.train: .*({message})"):
        load(str(tmp_path / name))


def test_labels_that_train_does_not_have_are_refused(tmp_path: Path) -> None:
    test = table(tmp_path, [("x", -1), ("y", -1)], name="test")
    with pytest.raises(UserError, match=r"data.label: test has labels that train has not: -1 \(train has 0, 1\)"):
        load(table(tmp_path, ROWS), test=test)


def test_a_hub_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r'^c.yaml: data.name: the hub is out of reach for "no-such/set".*give files'):
        load("train", name="no-such/set")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train": "trian"},
            r'data.train: unknown split of org/set "trian"; did you mean "train"\? \(valid: train, test\)',
        ),
        ({"config": "b1"}, r'data.config: unknown configuration of org/set "b1"; .* \(valid: b, c\)'),
        ({}, r"data.config: org/set needs one of b, c"),
        ({"config": "b"}, r"data.name: org/set cannot be loaded: the library's own words"),
    ],
)
def test_a_wrong_split_or_configuration_of_the_hub_is_told(
    monkeypatch: pytest.MonkeyPatch, settings: Any, message: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("the library's own words")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    monkeypatch.setattr(
        "datasets.get_dataset_config_names",
        lambda _: ["b", "c"] if settings != {"train": "trian"} else ["default"],
    )
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_: ["train", "test"])
    with pytest.raises(UserError, match=f"^c.yaml: {message}"):
        load(**{"train": "train", "name": "org/set", **settings})


def test_the_embedded_reviews_are_the_published_ones() -> None:
    folder = embedded().parent / "movie_reviews"
    splits = load(
        str(folder / "train.parquet"),
        validation=str(folder / "validation.parquet"),
        test=str(folder / "test.parquet"),
    )
    sizes = [len(part) for part in (splits.train, splits.validation, splits.test)]
    assert sizes == [7395, 1539, 1632]  # the README beside them
    assert splits.notes == ()
    assert 0.45 < splits.train.labels.mean() < 0.55
