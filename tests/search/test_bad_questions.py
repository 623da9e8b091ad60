"""Mistakes in question answering's data and settings end the real command with one error, or are counted in a note."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import command
import pytest
import tiny

from search.cli.main import main

from .test_question_answering import facts

ROW = {"id": "1", "question": "warm film", "context": "a warm film", "answers": {"text": ["warm"], "answer_start": [2]}}


def answers(*pairs: tuple[Any, Any]) -> dict[str, list[Any]]:
    return {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}


#: Name of a mistake -> (what is changed in the second of 40 rows, or all rows; keys of `data`; what the error says).
MISTAKES: Mapping[str, tuple[Any, Mapping[str, Any], str]] = {
    "a column that is missing": (
        [{key: value for key, value in ROW.items() if key != "answers"}],
        {},
        r'data.answers: .* unknown column "answers"',
    ),
    "a column of another name": (
        {},
        {"context": "passage"},
        r'data.context: .*unknown column "passage" .*context, question',
    ),
    "no rows": ([], {}, r"data.train: no rows in|data.train: .* is empty"),
    "an empty question": ({"question": " "}, {}, r'data.question: column "question" .* must not be empty.* in row 2'),
    "an empty context": ({"context": ""}, {}, r'data.context: column "context" .* must not be empty.* in row 2'),
    "a missing question": ({"question": None}, {}, r"data.question: .* must hold text, got a missing value in row 2"),
    "a context that is no number": ({"context": float("nan")}, {}, r"data.context: .* got a missing value in row 2"),
    "answers that are missing": ({"answers": None}, {}, r"data.answers: .* must hold mappings.*missing value in row 2"),
    "answers that are text": ({"answers": "warm"}, {}, r'data.answers: .* must hold mappings.*"warm" in row 2'),
    "an answer that is missing": (
        {"answers": answers((None, 0))},
        {},
        r"data.answers: .* got a missing value in row 2",
    ),
    "a start that is no number": (
        {"answers": answers(("warm", float("nan")))},
        {},
        r"data.answers: .*whole numbers.* row 2",
    ),
    "more texts than starts": (
        {"answers": {"text": ["warm", "film"], "answer_start": [2]}},
        {},
        r"data.answers: .*as many answer_start as text, got 1 and 2 in row 2",
    ),
    "an id that is there twice": ({"id": "0-0"}, {}, r'data.train: column "id" .* got "0-0" in rows 1 and 2'),
    "answers that stand nowhere": (
        [{**ROW, "id": name, "answers": answers(("cold", 1))} for name in "ab"],
        {},
        r"data.answers: .* in no row do the answers stand where answer_start says",
    ),
    "a question longer than a window": (
        {"question": "a film " * 9},
        {"max_length": 16},
        r"data.max_length: must leave room for context behind question .* \(18 tokens: .*, got 16",
    ),
    "a stride longer than the room": (
        {},
        {"max_length": 12, "doc_stride": 8},
        r"data.doc_stride: must be less than the",
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("model") / "bert")


def config_of(folder: Path, model: Path, rows: list[dict[str, Any]], **data: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    section = {"train": "rows.jsonl", "validation": None, "test": None, "max_length": 12, "doc_stride": 3, **data}
    return command.write_config(
        folder / "config.yaml", task="question-answering", model={"name": str(model)}, data=section
    )


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_the_command_with_one_error(
    tmp_path: Path, model: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, data, wanted = MISTAKES[mistake]
    rows = changed if isinstance(changed, list) else facts(40, 0)
    if isinstance(changed, dict):
        rows[1] = {**rows[1], **changed}
    config = config_of(tmp_path, model, rows, **data)
    capsys.readouterr()  # what was said before
    assert main(["plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "Traceback" not in error, error
    assert re.search(wanted, error) and str(config) in error, error


@pytest.mark.parametrize(
    ("make", "kind"), [(tiny.bert, "BertModel"), (tiny.classifier, "BertForSequenceClassification")]
)
def test_a_model_without_a_head_for_questions_that_is_not_trained_ends_the_command_with_one_error(
    tmp_path: Path, make: Callable[[Path], Path], kind: str
) -> None:
    config = config_of(tmp_path, make(tmp_path / "model"), facts(40, 0))
    for verb in ("plan", "run"):
        ended = command.search(verb, config, "--set", "teacher.epochs=0", cwd=tmp_path)
        assert ended.code == 2 and len(ended.err.splitlines()) == 1, ended.err
        assert re.search(
            rf"teacher.epochs: must be above 0: no trained head in .*its architecture is {kind}", ended.err
        )


def test_answers_that_are_elsewhere_are_dropped_and_contexts_of_many_windows_used_and_both_are_counted(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = facts(80, 0)
    rows[1]["answers"]["answer_start"][0] += 1
    for row in rows[2:4]:
        row["answers"] = answers(("nowhere", 0))
    rows[4]["context"] = f"{rows[4]['context']} {'the film and the plot ' * 20}"  # more than the model's 64 positions
    config = config_of(tmp_path, model, rows)
    assert main(["plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 0
    output = capfd.readouterr().out
    assert "3 rows of rows.jsonl dropped: their answers do not stand where answer_start says" in output
