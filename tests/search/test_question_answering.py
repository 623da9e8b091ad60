"""The task question-answering: rows and scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from objectives import quality
from search.config.schema import ModelConfig, RunConfig, WorkloadConfig
from search.errors import UserError
from search.prepare.prepared import PreparedData
from search.tasks.question_answering import QuestionAnswering, QuestionRows
from search.tasks.questions import QuestionData, Questions
from spaces.runtime import Context

TASK = QuestionAnswering()
DATA = QuestionData(train="unused", max_length=12, doc_stride=3)


def facts(count: int, seed: int, unanswerable: float = 0.0) -> list[dict[str, Any]]:
    """Rows in SQuAD's columns: which word that judges stands in the context; the question says of which kind."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        good, bad = str(rng.choice(tiny.POSITIVE)), str(rng.choice(tiny.NEGATIVE))
        words = [*map(str, rng.choice(tiny.NEUTRAL, int(rng.integers(4, 9))))]
        words.insert(int(rng.integers(len(words))), good)
        words.insert(int(rng.integers(len(words))), bad)
        wanted, question = (good, "warm film") if rng.random() < 0.5 else (bad, "dull film")
        if rng.random() < unanswerable:
            words, wanted = [word for word in words if word != wanted], ""
        context = " ".join(words)
        answers = {"text": [wanted], "answer_start": [f" {context} ".index(f" {wanted} ")]} if wanted else {}
        rows.append(
            {
                "id": f"{seed}-{number}",
                "context": context,
                "question": question,
                "answers": answers or {"text": [], "answer_start": []},
            }
        )
    return rows


def questions(rows: Sequence[dict[str, Any]]) -> Questions:
    return Questions(
        tuple(row["id"] for row in rows),
        tuple(row["question"] for row in rows),
        tuple(row["context"] for row in rows),
        tuple(tuple(row["answers"]["text"]) for row in rows),
        tuple(tuple(row["answers"]["answer_start"]) for row in rows),
    )


def encoded(count: int = 12, unanswerable: float = 0.0) -> QuestionRows:
    data = replace(DATA, null_threshold=0.0) if unanswerable else DATA
    rows: QuestionRows = TASK.encode(tiny.word_tokenizer(), questions(facts(count, 0, unanswerable)), data, ())
    return rows


def certain(rows: QuestionRows) -> np.ndarray:
    """Span logits (tokens, 2) of a model that knows every target."""
    output = np.zeros((int(rows.encoded.lengths.sum()), 2), dtype=np.float32)
    begins = np.concatenate([[0], np.cumsum(rows.encoded.lengths)[:-1]])
    for begin, (start, end) in zip(begins, rows.windows.targets, strict=True):
        output[begin + start, 0] = output[begin + end, 1] = 9.0
    return output


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = encoded()
    rows.write(tmp_path, "train")
    again = TASK.read(tmp_path, "train")
    assert again.questions == rows.questions and again.null_threshold is None
    assert len(again.windows) == len(rows.windows) > len(rows), "some contexts take two windows"
    for name in ("targets", "question"):
        np.testing.assert_array_equal(getattr(again.windows, name), getattr(rows.windows, name))
    assert again.predictions("squad_f1", certain(rows)).tolist() == rows.predictions("squad_f1", certain(rows)).tolist()


@pytest.mark.parametrize("metric", TASK.metrics)
def test_a_model_that_knows_every_answer_scores_one_and_one_that_says_nothing_zero(metric: str) -> None:
    rows = encoded()
    assert rows.predictions(metric, certain(rows)).tolist() == [1.0] * len(rows)
    guess = rows.constant_guess(metric)
    assert guess.predictions.tolist() == [0.0] * len(rows) and "no question is answered" in guess.text


def test_some_rows_are_scored_as_among_all() -> None:
    rows, output = encoded(), np.random.default_rng(0).normal(size=(int(encoded().encoded.lengths.sum()), 2))
    picked = np.array([1, 4, 5, 10])
    windows = np.isin(rows.windows.question, picked)
    tokens = np.repeat(windows, rows.encoded.lengths)
    some = rows.chosen(picked)
    assert len(some) == 4 and some.questions.ids == tuple(rows.questions.ids[i] for i in picked)
    wanted = rows.predictions("squad_f1", output)[picked]
    assert some.predictions("squad_f1", output[tokens]).tolist() == wanted.tolist()
    assert some.predictions("squad_f1", certain(rows)[tokens]).tolist() == [1.0] * 4


def test_questions_without_an_answer_need_a_threshold(tmp_path: Path) -> None:
    rows = [{**row, "answers": json.dumps(row["answers"])} for row in facts(40, 0, unanswerable=0.5)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    data = QuestionData(train=str(tmp_path / "train.json"))
    with pytest.raises(UserError, match=r"data\.null_threshold: must be a number where questions have no answer"):
        TASK.load(data)
    assert len(TASK.load(replace(data, null_threshold=0.0)).train)


def test_unanswerable_questions_are_answered_with_nothing_where_that_is_likelier() -> None:
    rows = encoded(30, unanswerable=0.5)
    assert rows.null_threshold == 0.0 and encoded().null_threshold is None
    assert rows.predictions("exact_match", certain(rows)).tolist() == [1.0] * len(rows)
    empty = np.array([not golds for golds in rows.questions.answers])
    assert 0 < empty.sum() < len(rows)
    assert rows.constant_guess("exact_match").predictions.tolist() == empty.astype(float).tolist()


def test_which_spans_may_be_an_answer_is_the_datas(tmp_path: Path) -> None:
    part, output = questions(facts(20, 0)), certain(encoded(20))
    short = TASK.encode(tiny.word_tokenizer(), part, replace(DATA, max_answer_len=1, n_best=7), ())
    short.write(tmp_path, "train")
    for rows in (short, short.chosen(np.arange(20)), TASK.read(tmp_path, "train")):
        assert (rows.max_answer_len, rows.n_best, rows.null_threshold) == (1, 7, None)
        assert all(" " not in answer.text for answer in rows.answers(output))
    one, other = (
        RunConfig(ModelConfig(name="m"), "question-answering", data).study_parts("m", "d")
        for data in (DATA, replace(DATA, max_answer_len=15))
    )
    assert {name for name in one if one[name] != other[name]} == {"data"}, "another study: rows are scored otherwise"


def test_a_stride_that_is_no_shorter_than_a_window_is_refused() -> None:
    data = QuestionData(train="unused", max_length=16, doc_stride=16)
    with pytest.raises(UserError, match=r"data.doc_stride: must be less than data.max_length \(16\), got 16"):
        TASK.encode(tiny.word_tokenizer(), questions(facts(2, 0)), data, ())


@pytest.mark.parametrize("batch", [1, 2])
def test_integer_precisions_are_scored_as_they_are_timed(tmp_path: Path, batch: int) -> None:
    """Scales of activations are those of a call: a batch holds all windows of its questions, and no others."""
    rows = encoded()
    config = RunConfig(ModelConfig(name="m"), "question-answering", DATA, workload=WorkloadConfig(batch=batch))
    prepared = PreparedData(config, Context(), tmp_path)
    sizes = prepared.sizes(rows, "int8")
    assert sizes == [int(rows.calls[i : i + batch].sum()) for i in range(0, len(rows), batch)]
    batches = prepared.batches(rows, "int8")
    assert [len(one["input_ids"]) for one in batches] == sizes and sum(sizes) == len(rows.encoded)
    assert len(prepared.sizes(rows, "fp32")) == 1, "in floating point a row's output does not depend on the others"


def test_scores_of_rows_give_a_measurement() -> None:
    rows = encoded()
    measurement = quality.quality("squad_f1", rows.predictions("squad_f1", certain(rows)), rows.references, 0, 0, {})
    assert (measurement.value, measurement.unit, measurement.better) == (1.0, "fraction", "higher")
