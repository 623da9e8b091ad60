"""Texts become token ids, token ids become batches, outputs become answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objectives.quality import metric_named
from search.errors import UserError
from search.serve.pipeline import MODELS
from search.tasks import TASKS, Task
from search.tasks.classification import Classification, LabelledRows, reply
from search.tasks.tokens import Encoded, batches, by_length, encode, tokenizer
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
    made: Iterator[dict[str, np.ndarray]] = batches(encoded, 8, order)
    return sum(batch["input_ids"].size for batch in made)


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
    made = tokenizer(words)
    single = encode(made, ["good film", "bad"], None, 16)
    assert [row.tolist() for row in single.columns["input_ids"]] == [[2, 5, 7, 3], [2, 6, 3]]
    pair = encode(made, ["good film"], ["bad film"], 16)
    assert pair.columns["input_ids"][0].tolist() == [2, 5, 7, 3, 6, 7, 3]
    assert pair.columns["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert encode(made, ["good " * 50], None, 16).lengths.tolist() == [16]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"model.name: no tokenizer files \(tokenizer.json or a vocabulary\) in"):
        tokenizer(tmp_path)


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


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_has_a_name_metrics_and_a_head(task: Task) -> None:
    import transformers

    assert task.name
    assert {metric_named(name).name for name in task.metrics} == set(task.metrics) != set()
    assert hasattr(transformers, head_named(task.own_head).loader)
    assert task.name in MODELS, "search.load knows how it replies"
