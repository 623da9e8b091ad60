"""What every task keeps to: its columns and bad rows, padding, scores by row, the constant guess, words, replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny

from objectives.quality import loss_against, metric_named, quality, score
from search.config.schema import RecoverConfig
from search.errors import UserError
from search.execute.recovery import term_weights
from search.prepare import recovery_budget
from search.tasks import ALONE, Task, forms
from search.tasks.choice_rows import CausalChoices
from search.tasks.task import LIKELIEST, TERMS
from spaces.heads import head_named

from .tagging import Tagging
from .tagging_head import registered, tagged

COUNT = 120
QUESTIONED = tuple(CausalChoices(metric) for metric in CausalChoices().metrics)
#: The last is a task of the tests alone.
KINDS = (*(form for form in forms() if not isinstance(form, CausalChoices)), *QUESTIONED, Tagging())


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch)


def name_of(task: Task) -> str:
    """Of a variant by its problem type, or by the key that chooses it; with the metric of texts with questions."""
    if task in QUESTIONED:
        return f"{task.name} with questions, {task.metrics[0]}"
    return task.problem_type or (task.name if task.chosen_by is None else f"{task.name}, with {task.chosen_by}")


@dataclass(frozen=True)
class Case:
    """Rows of a task as a user has them: the columns that must be there, with a value each that no row may have."""

    rows: list[dict[str, Any]]
    bad: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)  # by the key of `data` that names the file
    split: str = "train"  # whose rows are scored


def sentences(labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = tiny.sentences(COUNT, 0)
    return [
        {"text": f"{row['text']} film {'a ' * (i % 5)}", "label": labels[row["label"]]} for i, row in enumerate(rows)
    ]


def questions() -> list[dict[str, Any]]:
    from .test_question_answering import facts

    return facts(COUNT, 0)


def passages() -> list[dict[str, Any]]:
    from .test_similarity import pairs

    return [dict(row) for row in pairs(COUNT, 0)]


def choices() -> list[dict[str, Any]]:
    from .test_causal_lm import questions

    return questions(40, 0)


@cache
def cases() -> dict[str, Case]:
    texts = {"text": None, "label": None}
    scored = [{**row, "score": float(i % 6)} for i, row in enumerate(passages())]
    columns = {"query": "query", "passage": "passage"}
    numbers = [{**row, "label": float(i % 7)} for i, row in enumerate(sentences({"negative": 0, "positive": 1}))]
    texts_alone = [{"text": row["text"]} for row in numbers]
    asked = {"question": " ", "context": None, "answers": "film"}
    windows = {"max_length": 12, "doc_stride": 3}
    questioned = Case(texts_alone, {"text": None}, windows, {"choices": choices()}, "validation")
    return {
        "tagging": Case(tagged(COUNT, 0), {"text": " ", "tags": "good"}),
        "single_label_classification": Case(sentences({"negative": "no", "positive": "yes"}), texts),
        "multi_label_classification": Case(
            sentences({"negative": ["a"], "positive": ["a", "b"]}), {**texts, "label": 1}
        ),
        "regression": Case(numbers, {**texts, "label": "much"}),
        "question-answering": Case(questions(), asked, windows),
        "causal-lm": Case(texts_alone, {"text": None}, windows),
        **{name_of(task): questioned for task in QUESTIONED},
        "sentence-similarity": Case(passages(), {"query": "", "passage": None}, columns),
        "sentence-similarity, with score": Case(
            scored, {"query": None, "score": "near"}, {**columns, "score": "score"}
        ),
    }


def load(task: Task, folder: Path, rows: list[dict[str, Any]] | None = None) -> Any:
    """The splits of the case's file, or of one with these rows."""
    case = cases()[name_of(task)]
    files = {"train": rows or case.rows, **case.files}
    for key, lines in files.items():
        (folder / f"{key}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    paths = {key: str(folder / f"{key}.jsonl") for key in files}
    return task.load(task.keys(**paths, **case.data), lambda key: f"c.yaml: {key}")


def encoded(task: Task, folder: Path) -> Any:
    """`Rows` of the case's split, and the names of its labels beside them for `Task.read`."""
    splits, case = load(task, folder), cases()[name_of(task)]
    data = task.keys(train="unused", **case.data)
    (folder / "data.json").write_text(json.dumps({"labels": splits.labels}))
    return task.encode(tiny.word_tokenizer(), getattr(splits, case.split), data, splits.labels)


def output_of(rows: Any, task: Task) -> np.ndarray:
    """A random output, (E, ...) or (tokens, ...) of a head with an output a token."""
    per_token = head_named(task.own_head).per_token
    count = int(rows.encoded.lengths.sum()) if per_token else len(rows.encoded)
    drawn = np.random.default_rng(1)
    if task.outputs == 0:  # a log-likelihood a token
        return -drawn.exponential(size=count)
    return drawn.normal(size=(count, task.outputs or rows.classes or 8))


every_task = pytest.mark.parametrize("task", KINDS, ids=name_of)


def test_every_registered_task_has_a_case() -> None:
    assert {name_of(task) for task in KINDS} <= set(cases()), "add rows of the task to `cases`"


@pytest.fixture(params=[task for task in KINDS if name_of(task) in cases()], ids=name_of)
def task(request: pytest.FixtureRequest) -> Task:
    return request.param


def test_a_column_that_is_missing_is_named(task: Task, tmp_path: Path) -> None:
    for column in cases()[name_of(task)].bad:
        rows = [{key: value for key, value in row.items() if key != column} for row in cases()[name_of(task)].rows]
        with pytest.raises(UserError, match=rf'c.yaml: data.{column}.*"{column}"'):
            load(task, tmp_path, rows)


def test_a_bad_cell_is_refused_by_its_column_and_row(task: Task, tmp_path: Path) -> None:
    for column, value in cases()[name_of(task)].bad.items():
        rows = [dict(row) for row in cases()[name_of(task)].rows]
        rows[6][column] = value
        with pytest.raises(UserError, match=rf'c.yaml: data.{column}: column "{column}" of .* in row 7') as refusal:
            load(task, tmp_path, rows)
        assert len(str(refusal.value).splitlines()) == 1


def test_splits_cut_from_one_file_share_no_row(task: Task, tmp_path: Path) -> None:
    splits = load(task, tmp_path)
    digests = {part.digest for part in (splits.train, splits.validation, splits.test)}
    assert len(digests) == 3 and all(len(part) for part in (splits.train, splits.validation, splits.test))
    again = load(task, tmp_path)
    assert splits.digest == again.digest, "the same cut every time"
    assert splits.train.shown(0)


def test_rows_come_back_as_they_were_written(task: Task, tmp_path: Path) -> None:
    rows = encoded(task, tmp_path)
    rows.write(tmp_path, "train")
    again = task.read(tmp_path, "train")
    assert len(again) == len(rows) and again.classes == rows.classes
    np.testing.assert_array_equal(again.references, rows.references)
    np.testing.assert_array_equal(again.encoded.lengths, rows.encoded.lengths)
    output = output_of(rows, task)
    for metric in task.metrics:
        np.testing.assert_array_equal(again.predictions(metric, output), rows.predictions(metric, output))


def test_padding_is_the_tokenizers_and_is_masked(task: Task, tmp_path: Path) -> None:
    rows = encoded(task, tmp_path).encoded
    assert len(set(rows.lengths.tolist())) > 1
    batch = rows.batch(np.arange(len(rows)))
    beyond = np.arange(int(rows.lengths.max())) >= rows.lengths[:, None]
    assert (batch["attention_mask"] == ~beyond).all()
    assert (batch["input_ids"][beyond] == tiny.word_tokenizer().pad_token_id).all()
    tokens = np.concatenate(rows.columns["input_ids"])
    np.testing.assert_array_equal(rows.flat(np.arange(len(rows)), batch["input_ids"]), tokens)


def test_calls_hold_every_row_once(task: Task, tmp_path: Path) -> None:
    rows = encoded(task, tmp_path)
    assert rows.calls.dtype == np.int64 and (rows.calls > 0).all() and rows.calls.sum() == len(rows.encoded)
    assert (rows.calls == 1).all() == (task.call == ALONE), "only then a call is more than a row"


def test_a_score_is_made_of_scores_by_row(task: Task, tmp_path: Path) -> None:
    """Paired statistics need them: of rows' own scores the metric is the mean, of classes a function of the pairs."""
    rows = encoded(task, tmp_path)
    output = output_of(rows, task)
    for metric in task.metrics:
        predictions, kind = rows.predictions(metric, output), metric_named(metric)
        assert predictions.shape == rows.references.shape and np.isfinite(predictions).all()
        value = score(metric, predictions, rows.references, rows.classes)
        if kind.of_counts is None and kind.of_draws is None:
            assert value == pytest.approx(float(np.mean(predictions)))
        measurement = quality(metric, predictions, rows.references, rows.classes, 0, {})
        assert measurement.value == pytest.approx(value) and measurement.interval[0] <= value <= measurement.interval[1]
        same = loss_against(metric, predictions, predictions, rows.references, rows.classes, 0)
        assert (same.value, same.interval) == (0.0, (0.0, 0.0)), "paired: a model loses nothing against itself"


def test_a_subset_is_scored_as_among_all(task: Task, tmp_path: Path) -> None:
    rows = encoded(task, tmp_path)
    some = rows.chosen(np.arange(0, len(rows), 3))
    assert len(some) == len(range(0, len(rows), 3)) and some.classes == rows.classes
    np.testing.assert_array_equal(some.references, rows.references[::3])
    everything = rows.chosen(np.arange(len(rows)))
    output = output_of(rows, task)
    for metric in task.metrics:
        np.testing.assert_array_equal(everything.predictions(metric, output), rows.predictions(metric, output))


def test_the_constant_guess_is_below_a_perfect_model_and_says_what_it_is(task: Task, tmp_path: Path) -> None:
    rows = encoded(task, tmp_path)
    assert rows.problem() == ""
    for metric in task.metrics:
        guess, kind = rows.constant_guess(metric), metric_named(metric)
        assert guess.predictions.shape == rows.references.shape and guess.text.startswith("where ")
        value = score(metric, guess.predictions, rows.references, rows.classes)
        assert kind.utility(value) < kind.utility(kind.perfect)
    assert json.dumps(rows.details(rows.predictions(task.metrics[0], output_of(rows, task))))


@every_task
def test_a_metric_says_its_unit_in_words(task: Task) -> None:
    for metric in map(metric_named, task.metrics):
        assert metric.loss_unit in (f"{metric.title} points", f"% of {metric.title}")
        assert metric.better == "higher" or metric.unit == metric.title
        assert metric.loss(metric.perfect, metric.perfect) == 0 and metric.drop(0.0) == 0
        worse = 0.5 if metric.better == "higher" else 2.0
        assert metric.loss(worse, 1.0) > 0 and metric.drop(float(metric.loss(worse, 1.0))) == pytest.approx(
            metric.utility(1.0) - metric.utility(worse)
        )


def test_losses_are_told_in_the_units_of_the_field() -> None:
    units = {"squad_f1": "F1 points", "recall_at_1": "recall@1 points", "perplexity": "% of perplexity"}
    assert {name: metric_named(name).loss_unit for name in units} == units


@every_task
def test_a_recovery_has_the_terms_that_its_task_declares(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels only where data have them, likeliest tokens only of a head that gives likelihoods; others weigh 0."""
    assert task.distills <= {*TERMS, LIKELIEST} and {"soft", "hidden"} <= task.distills
    assert ("task" in task.distills) == task.supervised
    assert (LIKELIEST in task.distills) == (task.outputs == 0)
    weights = term_weights(task, {f"{term}_weight": 0.5 for term in TERMS})
    assert dict(zip(TERMS, weights, strict=True)) == {term: 0.5 * (term in task.distills) for term in TERMS}
    monkeypatch.setattr(recovery_budget, "task_of", lambda config: task)
    config: Any = SimpleNamespace(recover=RecoverConfig(block_weight=1.0, relation_weight=1.0))
    assert {term for term in TERMS if recovery_budget.has_term(config, term)} == task.distills - {LIKELIEST}
    assert recovery_budget.likeliest_of(config) == (recovery_budget.TOP_K if task.outputs == 0 else 0)
    silent: Any = SimpleNamespace(recover=RecoverConfig(soft_weight=0.0))
    assert recovery_budget.likeliest_of(silent) == 0 and not recovery_budget.has_term(silent, "soft")


@every_task
def test_a_recovery_without_a_term_is_refused(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would leave the weights as the cut left them; a task without labels has no use for `task_weight`."""
    monkeypatch.setattr(recovery_budget, "task_of", lambda config: task)
    none: Any = {f"{term}_weight": 0.0 for term in task.distills & {*TERMS}}
    config: Any = SimpleNamespace(recover=RecoverConfig(**none), where=str)
    with pytest.raises(UserError, match=r"^recover: must have a weight above 0 among .*soft_weight, hidden_weight"):
        recovery_budget.check_terms(config)
    nothing: Any = SimpleNamespace(recover=RecoverConfig(epochs=0.0, **none))
    recovery_budget.check_terms(nothing)


@every_task
def test_the_words_of_a_task_are_there(task: Task) -> None:
    assert task.name and task.call
    assert task.unusable(None, task.outputs or 2) == "" or task.outputs is None
