"""Mistakes in a classifier's texts and labels, of each problem type, end the real command with one error or a note."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import command
import pytest
import tiny

from search.cli.main import main

NAN = float("nan")
#: Problem type -> the label of row number i.
LABELS: Mapping[str, Any] = {
    "single_label_classification": lambda i: ("bad", "good")[i % 2],
    "multi_label_classification": lambda i: (["bad"], ["good", "odd"], [])[i % 3],
    "regression": lambda i: i / 7,
}
#: What is wrong with the texts of any of them -> (what is changed in the second row, keys of `data`, the error).
OF_TEXTS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {
    "a text that is missing": ({"text": None}, {}, r'data.text: column "text" .* must hold text, got a missing'),
    "a text that is NaN": ({"text": NAN}, {}, r"data.text: .* must hold text, got a missing value in row 2"),
    "a text that is a list": ({"text": ["film"]}, {}, r'data.text: .* must hold text, got \["film"\] in row 2'),
    "no rows": ({}, {"train": "empty.jsonl"}, r"data.train: \S+empty.jsonl is empty"),
    "no such column of texts": ({}, {"text": "txet"}, r'data.text: in \S+: unknown column "txet"; did you mean "text"'),
    "no such column of pairs": ({}, {"text_pair": "other"}, r'data.text_pair: in \S+: unknown column "other"'),
    "no such column of labels": ({}, {"label": "lable"}, r'data.label: in \S+: unknown column "lable"; did you mean'),
    "a label that is missing": ({"label": None}, {}, r"data.label: .*, got a missing value in row 2"),
    "a label that is NaN": ({"label": NAN}, {}, r"data.label: .*, got a missing value in row 2"),
}
#: Problem type -> the same of its labels alone.
OF_LABELS: Mapping[str, Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], str]]] = {
    "single_label_classification": {
        "an empty label": ({"label": " "}, {}, r"data.label: .* must hold classes .*, got a missing value in row 2"),
        "a list of labels": ({"label": ["bad"]}, {}, r"several labels a text set model.problem_type: multi_label"),
        "a label in one split": ({}, {"validation": "odd.jsonl"}, r"validation has labels that train has not"),
        "names that are too few": ({}, {"label_names": ["bad"]}, r"data.label_names: "),
    },
    "multi_label_classification": {
        "a label that is no list": ({"label": "bad"}, {}, r'data.label: .* must hold lists of labels, .*, got "bad"'),
        "a label that is there twice": ({"label": ["bad", "bad"]}, {}, r"data.label: .* must list a label once"),
        "a label in one split": ({}, {"validation": "odd.jsonl"}, r"validation has labels that train has not"),
        "columns of no 0 and 1": ({}, {"label": ["text", "label"]}, r'data.label: column "text" .* must hold 0 or 1'),
    },
    "regression": {
        "a label that is a word": ({"label": "good"}, {}, r'data.label: .* must hold finite numbers, .*, got "good"'),
        "a label that is infinite": ({"label": float("inf")}, {}, r"data.label: .* finite numbers, .* Infinity"),
        "names of labels": ({}, {"label_names": ["a", "b"]}, r"data.label_names: must be left out where model"),
    },
}
CASES = [(problem, name) for problem in LABELS for name in (*OF_TEXTS, *OF_LABELS[problem])]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("model") / "bert")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def planned(folder: Path, model: Path, problem: str, changed: Mapping[str, Any], data: Mapping[str, Any]) -> int:
    """The exit status of `plan` over 80 rows, of which the second is changed."""
    texts = [row["text"] for row in tiny.sentences(80, 0)]
    rows = [{"text": text, "label": LABELS[problem](i)} for i, text in enumerate(texts)]
    rows[1] = {**rows[1], **changed}
    write(folder / "rows.jsonl", rows)
    write(folder / "odd.jsonl", [{"text": "a film", "label": "strange" if "single" in problem else ["strange"]}])
    write(folder / "empty.jsonl", [])
    section = {"train": "rows.jsonl", "validation": None, "test": None, "max_length": 16, **data}
    about = {"name": str(model), "problem_type": problem}
    config = command.write_config(folder / "config.yaml", model=about, data=section)
    return main(["plan", str(config), "--mlruns", str(folder / "mlruns")])


@pytest.mark.parametrize(("problem", "mistake"), CASES)
def test_a_mistake_ends_the_command_with_one_error(
    tmp_path: Path, model: Path, problem: str, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, data, wanted = {**OF_TEXTS, **OF_LABELS[problem]}[mistake]
    capsys.readouterr()  # what was said before
    assert planned(tmp_path, model, problem, changed, data) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "Traceback" not in error, error
    assert re.search(wanted, error) and str(tmp_path / "config.yaml") in error, error


@pytest.mark.parametrize("problem", LABELS)
def test_texts_that_are_empty_and_texts_that_are_cut_are_counted(
    tmp_path: Path, model: Path, problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert planned(tmp_path, model, problem, {"text": " "}, {"max_length": 8}) == 0
    output = capfd.readouterr().out
    assert 'note: 1 rows of rows.jsonl have no text in column "text"' in output
    cut = re.search(r"note: (\d+) of (\d+) texts of .*train fill 8 tokens \(data.max_length\); what is longer", output)
    assert cut is not None and 0 < int(cut[2]) - 1 <= int(cut[1]) < 80, "all but the empty one, which a split may hold"
