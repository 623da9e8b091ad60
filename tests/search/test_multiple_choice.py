"""Multiple-choice questions of language models: how they are read and scored, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import command
import numpy as np
import pytest
import tiny

from objectives.quality import score
from search.errors import UserError
from search.tasks.choice_rows import BothRows, CausalChoices, ChoiceRows, choice_rows
from search.tasks.documents import DocumentData, Documents
from search.tasks.multiple_choice import ChoiceQuestions, read_choices
from search.tasks.task import SecondScore

from .test_causal_lm import llama, questions, texts

ASKED = ChoiceQuestions(
    ("the film was", "a story of ", "the end"),
    (("good", "bad and dull"), ("great", "awful", "dull"), (" the", "a")),
    (0, 2, 1),
    "asked.jsonl",
    10_000,
)


def rows_of(asked: ChoiceQuestions = ASKED, max_length: int = 16) -> ChoiceRows:
    return choice_rows(tiny.word_tokenizer(), asked, max_length)


def test_the_likeliest_choice_for_its_length_is_the_answer() -> None:
    rows = rows_of()
    output = np.random.default_rng(0).uniform(-5, 0, int(rows.encoded.lengths.sum()))
    tokenizer, at, wanted = tiny.word_tokenizer(), 0, []
    for context, choices in zip(ASKED.contexts, ASKED.choices, strict=True):
        scores = []
        for choice in choices:
            before = len(tokenizer(context)["input_ids"]) - 1  # an end token stands behind the text
            length = len(tokenizer(f"{context} {choice}")["input_ids"]) - 1
            scores.append(output[at + before : at + length].sum() / len(choice))
            at += length
        wanted.append(int(np.argmax(scores)))
    assert rows.predictions("accuracy", output).tolist() == wanted
    assert rows.classes == 3 and rows.references.tolist() == [0, 2, 1]


def test_questions_are_bounded_in_tokens_and_lose_the_beginning_of_their_context() -> None:
    few = rows_of(ChoiceQuestions(ASKED.contexts, ASKED.choices, ASKED.answers, "", most_tokens=1))
    assert len(few) == 1 or len(few) == 2
    short, whole = rows_of(max_length=4), rows_of()
    assert short.encoded.lengths.max() == 4
    for row in range(len(whole.encoded)):
        row_ids = short.encoded.columns["input_ids"][row]
        assert row_ids.tolist() == whole.encoded.columns["input_ids"][row][-4:].tolist()
        counted = short.encoded.lengths[row] - short.first[row]
        assert counted == whole.encoded.lengths[row] - whole.first[row]
    with pytest.raises(UserError, match=r"data.choices: a choice must leave room for its context in 4 tokens"):
        rows_of(ChoiceQuestions(("the film",), (("good", "bad " * 5),), (0,), "", 99), max_length=4)


def test_rows_are_read_as_they_were_written_and_chosen(tmp_path: Path) -> None:
    rows = rows_of()
    rows.write(tmp_path, "test")
    again = ChoiceRows.read(tmp_path, "test")
    output = np.random.default_rng(1).normal(size=int(rows.encoded.lengths.sum()))
    assert again.predictions("accuracy", output).tolist() == rows.predictions("accuracy", output).tolist()
    some = rows.chosen(np.array([0, 2]))
    scores = np.concatenate([output[:], []])
    lengths = np.cumsum(rows.encoded.lengths)
    parts = np.split(scores, lengths[:-1])
    assert (
        some.predictions("accuracy", np.concatenate([*parts[:2], *parts[5:]])).tolist()
        == rows.predictions("accuracy", output)[[0, 2]].tolist()
    )


@pytest.mark.parametrize("metric", ["perplexity", "accuracy"])
def test_one_of_the_two_chooses_and_the_other_stands_beside_it(metric: str) -> None:
    task, data = CausalChoices(metric), DocumentData(train="unused", max_length=12, doc_stride=4)
    windows = task.encode(tiny.word_tokenizer(), Documents(tuple(row["text"] for row in texts(6, 0)), "rows"), data, ())
    both = BothRows(windows, rows_of(), metric)
    assert isinstance(both, SecondScore)
    output = -np.random.default_rng(2).uniform(0.5, 3, int(both.encoded.lengths.sum()))
    size = int(windows.encoded.lengths.sum())
    by_metric = {
        "perplexity": windows.predictions("perplexity", output[:size]),
        "accuracy": both.questions.predictions("accuracy", output[size:]),
    }
    np.testing.assert_array_equal(both.predictions(metric, output), by_metric.pop(metric))
    name, rows, part = both.second(output)
    np.testing.assert_array_equal(rows.predictions(name, part), by_metric[name])
    assert score(name, rows.predictions(name, part), rows.references, rows.classes) > 0
    assert len(both.chosen(np.array([0, 1]))) == 2


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_questions_are_halved_by_hash_unless_test_has_its_own(tmp_path: Path) -> None:
    file = written(tmp_path / "q.jsonl", questions(40, 0))
    validation, test, notes = read_choices(DocumentData(train="t", choices=file), str)
    assert len(validation) + len(test) == 40 and not set(validation.contexts) & set(test.contexts)
    assert "over their characters" in notes[-1]
    other = written(tmp_path / "r.jsonl", questions(8, 1))
    validation, test, _ = read_choices(DocumentData(train="t", choices=file, choices_test=other), str)
    assert (len(validation), len(test)) == (40, 8)
    lines = ["context,choices,answer", '"Is it, or","[""yes"", ""no""]",no', '"Or","[""1"", ""0""]",1']
    (tmp_path / "q.csv").write_text("\n".join(lines), encoding="utf-8")
    asked, _, _ = read_choices(DocumentData(train="t", choices=str(tmp_path / "q.csv"), choices_test=other), str)
    assert asked.choices == (("yes", "no"), ("1", "0")) and asked.answers == (1, 0), "a text goes before a number"


SPLITS = {"train": "rows.jsonl", "validation": None, "test": None}
RIGHT = {"context": "the film", "choices": ["good", "bad"], "answer": 0}


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([{"context": "a", "choice": ["b", "c"], "answer": 0}], 'unknown column "choices"; did you mean "choice"?'),
        ([RIGHT, {**RIGHT, "answer": 2}], "text of a choice or its number from 0 to 1, got 2 in row 2"),
        ([{**RIGHT, "answer": "fine"}], 'or its number from 0 to 1, got "fine" in row 1'),
        ([{**RIGHT, "answer": None}], "got a missing value in row 1"),
        ([{**RIGHT, "choices": ["good"]}], 'must hold lists of two choices or more, as ["a", "b"], got'),
        ([{**RIGHT, "choices": "good"}], 'must hold lists of two choices or more, as ["a", "b"], got "good"'),
        ([{**RIGHT, "choices": ["good", " "]}], "must hold texts, none of them empty"),
        ([{**RIGHT, "choices": ["good", "good"]}], "must list different choices"),
        ([{**RIGHT, "context": " "}], 'column "context"'),
        ([RIGHT], "1 questions of"),
        ([], "q.jsonl"),
    ],
    ids=["column", "range", "text", "none", "one", "list", "blank", "equal", "context", "few", "empty"],
)
def test_questions_that_cannot_be_used_are_one_clear_error(
    tmp_path: Path, rows: list[dict[str, Any]], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from search.cli.main import main

    llama(tmp_path / "model")
    written(tmp_path / "rows.jsonl", texts(60, 0))
    written(tmp_path / "q.jsonl", rows)
    config = command.write_config(
        tmp_path / "config.yaml",
        task="causal-lm",
        model={"name": "model"},
        data={**SPLITS, "max_length": 16, "doc_stride": 4, "choices": "q.jsonl"},
        teacher={"epochs": 0},
        workload={"prompt": 16, "new_tokens": 4},
    )
    capsys.readouterr()  # what saving the model said
    assert main(["plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and wanted in error and "data.choices" in error, error


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"task": "classification"}, "data.choices: must be left out unless the task is causal-lm"),
        ({"data": {"choices": "gone.jsonl"}}, "data.choices: no such file"),
        ({"data": {"choices": "rows.jsonl", "choices_test": "rows.jsonl"}}, "another file than data.choices"),
        ({"data": {"choices_test": "rows.jsonl"}}, "data.choices_test: must be left out unless data.choices is given"),
        ({"metric": "f1"}, 'metric: unknown metric "f1"'),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path: Path, changes: dict[str, Any], wanted: str) -> None:
    from search.config.load import load_config
    from search.space.choices import names

    written(tmp_path / "rows.jsonl", texts(4, 0))
    written(tmp_path / "q.jsonl", questions(4, 0))
    settings: dict[str, Any] = {
        "task": "causal-lm",
        "model": {"name": "gpt2"},
        "workload": {"prompt": 16, "new_tokens": 4},
        **changes,
    }
    settings["data"] = {**SPLITS, **changes.get("data", {"choices": "q.jsonl"})}
    config = command.write_config(tmp_path / "config.yaml", **settings)
    with pytest.raises(UserError, match=wanted):
        load_config(config, [], names())
