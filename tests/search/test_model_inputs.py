"""What a model takes: rows are framed and padded by its own tokenizer, and a model that cannot is refused."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pytest
import torch

from objectives import workload
from search.config.model_folder import weight_files
from search.errors import UserError
from search.prepare.folders import frame_in, input_names
from search.tasks.tokens import load_tokenizer
from spaces import build

from .test_model_facts import LABELS, Configure, prepared


@pytest.mark.parametrize("kind", families.KINDS)
def test_a_model_is_timed_on_rows_framed_by_its_tokenizer(tmp_path: Path, configured: Configure, kind: str) -> None:
    """Special tokens stand where the tokenizer puts them and nowhere else, padding at the right end; and it runs."""
    folder = families.save(tmp_path / "model", kind, **LABELS)
    _, teacher = prepared(tmp_path, configured(folder))
    tokenizer = families.tokenizer_of(kind)
    real = tokenizer("film", add_special_tokens=True)["input_ids"]
    bare = tokenizer("film", add_special_tokens=False)["input_ids"]
    at = next(i for i in range(len(real)) if real[i : i + len(bare)] == bare)
    before, behind = real[:at], real[at + len(bare) :]
    special = {*tokenizer.all_special_ids}
    batches = workload.inputs(workload.Workload(4, "data", 1), input_names(teacher), frame_in(teacher), range(5, 30))
    model = build.load_model(teacher)
    for batch in batches:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            row = ids[mask == 1].tolist()
            assert row[: len(before)] == before and row[len(row) - len(behind) :] == behind
            inside = row[len(before) : len(row) - len(behind)]
            assert inside and not special & set(inside) and max(inside) < len(tokenizer)
            assert set(ids[mask == 0].tolist()) <= {load_tokenizer(teacher).pad_token_id}
        with torch.inference_mode():
            assert model(**{n: torch.from_numpy(a) for n, a in batch.items()}).isfinite().all()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "mistral", "opt"])
def test_the_models_padding_token_is_that_of_its_tokenizer(tmp_path: Path, configured: Configure, kind: str) -> None:
    """Where config.json names none, and where it names another: a row answers alike alone and padded in a batch."""
    from transformers import AutoModelForSequenceClassification

    for number, pad in enumerate((None, 5)):
        root = tmp_path / str(number)
        folder = families.save(root / "model", kind, **LABELS, pad_token_id=pad)
        _, teacher = prepared(root, configured(folder))
        tokenizer = load_tokenizer(teacher)
        assert (
            json.loads((teacher / "config.json").read_text())["base"]["config"]["pad_token_id"]
            == tokenizer.pad_token_id
        )
        theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        texts = ["a film is dull", "the plot of the film is clever and bright and warm"]
        batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            ours = build.load_model(teacher)(**{n: batch[n] for n in input_names(teacher)})
            alone = torch.cat([theirs(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)


def test_a_sharded_model_answers_as_the_whole_one(tmp_path: Path, configured: Configure) -> None:
    from transformers import AutoModelForSequenceClassification

    whole = families.save(tmp_path / "whole" / "model", "bert", **LABELS)
    sharded = tmp_path / "sharded" / "model"
    AutoModelForSequenceClassification.from_pretrained(whole).save_pretrained(sharded, max_shard_size="20KB")
    families.tokenizer_of("bert").save_pretrained(sharded)
    assert len(weight_files(sharded)) > 1 and not (sharded / "model.safetensors").exists()
    batch = load_tokenizer(whole)(["a film is dull", "the plot is warm"], padding=True, return_tensors="pt")
    outputs = []
    for folder in (whole, sharded):
        _, teacher = prepared(folder.parent, configured(folder))
        with torch.inference_mode():
            outputs.append(build.load_model(teacher)(**{name: batch[name] for name in input_names(teacher)}))
    assert torch.equal(*outputs)


def test_a_pair_is_timed_as_a_pair(tmp_path: Path, configured: Configure) -> None:
    for kind, types in (("bert", [0, 0, 0, 0, 1, 1, 1]), ("roberta", None), ("bert-untyped", None)):
        folder = families.save(tmp_path / kind / "model", kind, **LABELS)
        _, teacher = prepared(tmp_path / kind, configured(folder, "data.text_pair=text"))
        inputs = input_names(teacher)
        [batch, *_] = workload.inputs(workload.Workload(1, 7), inputs, frame_in(teacher))
        row = batch["input_ids"][0]
        marks = [at for at, number in enumerate(row) if number in (0, 2)]
        assert marks == ([0, 3, 6] if kind != "roberta" else [0, 3, 4, 6])
        assert ("token_type_ids" in inputs) is (types is not None)
        if types is not None:
            assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1][: len(row)]


def test_a_model_whose_answer_depends_on_padding_is_refused(tmp_path: Path, configured: Configure) -> None:
    """XLNet reads its answer at the last token, and its tokenizer pads at the left."""
    from transformers import XLNetConfig, XLNetForSequenceClassification

    config = XLNetConfig(vocab_size=31, d_model=32, n_layer=1, n_head=4, d_inner=64, pad_token_id=1, **LABELS)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path / "model")
    families.word_tokenizer("xlnet", types=True).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="answers otherwise where a row is padded at its right"):
        prepared(tmp_path, configured(tmp_path / "model"))


def test_a_model_that_does_not_take_its_tokenizers_tokens_is_refused_before_it_is_trained(
    tmp_path: Path, configured: Configure
) -> None:
    """A third token type, which the model's table has no row for."""
    folder = families.save(tmp_path / "model", "bert", **LABELS)
    families.word_tokenizer("xlnet", types=True).save_pretrained(folder)
    with pytest.raises(UserError, match=r"model.name: the model '.*' does not run on its tokenizer's tokens: "):
        prepared(tmp_path, configured(folder))
