"""Labels as they stand in files of data, and in the config.json of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from search.errors import UserError
from search.tasks.classification import Classification
from search.tasks.rows import LabelledData
from search.tasks.trained_labels import head_labels

# --- files of data ---------------------------------------------------------------------------------------------


def load(folder: Path, lines: Sequence[str], name: str = "rows.csv", **settings: Any) -> Any:
    (folder / name).write_text("\n".join(lines) + "\n")
    return Classification().load(LabelledData(train=str(folder / name), **settings), lambda key: f"c.yaml: {key}")


def rows(labels: Sequence[str], count: int = 120) -> list[str]:
    return ["text,label", *(f"text {i},{labels[i % len(labels)]}" for i in range(count))]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("1", "0"), ("0", "1")),
        (("1.0", "0.0"), ("0", "1")),
        (("1", "1.0", " 0"), ("0", "1")),
        (("10", "9"), ("9", "10")),
        (("01", "02"), ("01", "02")),
        (("True", "False"), ("False", "True")),
        (("1", "2", "unknown"), ("1", "2", "unknown")),
        (("NA", "null"), ("NA", "null")),
    ],
)
def test_labels_of_text_files_are_numbers_where_all_are(
    tmp_path: Path, labels: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert load(tmp_path, rows(labels)).labels == names


@pytest.mark.parametrize("bad", ["", "  ", "nan", "NaN", "NA", "null", "None"])
def test_a_missing_label_among_numbers_is_named(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UserError, match="got a missing value in row 121"):
        load(tmp_path, [*rows(("0", "1")), f"x,{bad}"])


def test_a_fraction_among_numbers_is_no_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold classes \(whole numbers or names\), got 0.5 in row 121"):
        load(tmp_path, [*rows(("0", "1")), "x,0.5"])


def test_the_same_labels_in_different_formats_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": 1.0}\n{"text": "b", "label": "0"}\n')
    (tmp_path / "dev.jsonl").write_text('{"text": "c", "label": true}\n{"text": "d", "label": false}\n')
    data = load(tmp_path, rows(("0", "1")), test=str(tmp_path / "test.jsonl"))
    assert data.test.labels.tolist() == [1, 0]
    data = load(tmp_path, rows(("True", "False")), validation=str(tmp_path / "dev.jsonl"))
    assert data.validation.labels.tolist() == [1, 0]


def test_texts_that_are_numbers_truth_values_or_dates_are_read_as_text_and_noted(tmp_path: Path) -> None:
    lines = ['{"text": 1e5, "label": 0}', '{"text": true, "label": 1}'] * 5
    lines += [json.dumps({"text": f"word {i}", "label": i % 2}) for i in range(99)]
    data = load(tmp_path, lines, "rows.jsonl")
    assert {"1e5", "true"} <= {text for part in (data.train, data.validation, data.test) for text in part.texts}
    assert 'column "text" of rows.jsonl holds bool, number: read as text' in data.notes


def test_how_a_file_was_read_is_in_the_notes(tmp_path: Path) -> None:
    data = load(tmp_path, [line.replace(",", "\t").replace("text ", '"text ') for line in rows(("a", "b"))], "rows.tsv")
    assert len(data.train) + len(data.validation) + len(data.test) == 120
    assert data.notes[0].startswith("rows.tsv: quotes are read as characters of the texts")


# --- config.json --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("described", "names"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "a", "0": "b"}}, ("b", "a")),
        ({"id2label": {"0": 0, "1": 1}}, ("0", "1")),
        ({"id2label": {"0": 1.0, "1": 0.0}}, ("1", "0")),
        ({"id2label": {"0": False, "1": True}}, ("false", "true")),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ("a", "b")),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 2, "label2id": {"a": 0, "b": 1}}, ("a", "b")),
    ],
)
def test_names_of_a_models_labels_are_text_whatever_they_are_written_as(described: Any, names: Any) -> None:
    assert head_labels(described, "model.name") == names


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "label numbers 0, 1"),
        ({"id2label": {"a": 0, "b": 1}}, "label numbers 0, 1"),
        ({"id2label": ["a", "b"]}, "label numbers 0, 1"),
        ({"id2label": {"0": None, "1": "b"}}, "must be names, got null"),
        ({"id2label": {"0": "", "1": "b"}}, 'must be names, got ""'),
        ({"id2label": {"0": "a", "1": "a"}}, '"a" twice'),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, "num_labels is 3"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}, '"a" is 0 in id2label and 1 in label2id'),
    ],
)
def test_a_config_json_that_disagrees_with_itself_is_refused(described: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        head_labels(described, "c.yaml: model.name")
    assert message in str(caught.value) and str(caught.value).startswith("c.yaml: model.name: ")
