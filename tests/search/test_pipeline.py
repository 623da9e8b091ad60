"""An exported model answers as the transformers pipeline over the folder it came from, whatever its head is for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import families
import numpy as np
import pytest

import search
from search.deliver.export import export_model
from search.errors import UserError
from search.front.front import Front
from search.serve.hanging import warmed
from search.serve.model_process import loaded
from search.serve.pipeline import serving_context
from search.tasks.tokens import frame_of, load_tokenizer
from spaces import build
from spaces.base import load_base, write_folder

from . import factory

TEXTS = ["a film is dull", "the plot of the film is clever and bright and warm", "noisy"]
PAIRS = [{"text": text, "text_pair": other} for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]


def exported(source: Path, to: Path, pairs: bool = False) -> Path:
    """The model in `source` as it came, exported as trial 0 of a search that ran it under plain PyTorch."""
    tokenizer = load_tokenizer(source)
    labels = list(json.loads((source / "config.json").read_text())["id2label"].values())
    model, base = load_base(source, "mine", "main", "auto", labels, frame_of(tokenizer, pairs))
    weights = to / "weights"
    write_folder(weights, model, base, {})
    tokenizer.save_pretrained(weights)
    front = Front(factory.TARGETS, (factory.outcome(0, candidate=factory.recipe(), folder=str(weights)),))
    config = {**factory.CONFIG, "data": {**factory.CONFIG["data"], "max_length": 128}}
    export_model(front, replace(factory.study(front), config=config), front.outcomes[0], to / "model")
    return to / "model"


def pipeline(source: Path) -> Any:
    import transformers

    tokenizer = load_tokenizer(source)
    named = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    return transformers.pipeline("text-classification", model=named, tokenizer=tokenizer, device="cpu")


def flat(replies: Any) -> list[tuple[str, float]]:
    """(label, score) of every answer, in order; of lists in lists the innermost."""
    if isinstance(replies, dict):
        return [(replies["label"], replies["score"])]
    return [pair for reply in replies for pair in flat(reply)]


def shape(replies: Any) -> Any:
    """Which lists and mappings an answer is made of."""
    return sorted(replies) if isinstance(replies, dict) else [shape(reply) for reply in replies]


def same(ours: Any, theirs: Any) -> None:
    assert shape(ours) == shape(theirs)
    assert [label for label, _ in flat(ours)] == [label for label, _ in flat(theirs)]
    assert [score for _, score in flat(ours)] == pytest.approx([score for _, score in flat(theirs)], abs=1e-4)


PROBLEMS: Sequence[tuple[str | None, int]] = (
    (None, 3),
    ("single_label_classification", 3),
    ("multi_label_classification", 3),
    ("regression", 1),
    ("regression", 2),
    (None, 1),
)


@pytest.mark.parametrize(("problem", "classes"), PROBLEMS)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_each_problem_type_is_answered_as_the_pipeline_answers_it(
    tmp_path: Path, kind: str, problem: str | None, classes: int
) -> None:
    source = families.save(tmp_path / "source", kind, classes, problem_type=problem)
    ours, theirs = search.load(exported(source, tmp_path)), pipeline(source)
    same(ours(TEXTS), theirs(TEXTS))
    same(ours(TEXTS[0]), theirs(TEXTS[0]))
    same(ours({"text": TEXTS[0]}), theirs({"text": TEXTS[0]}))
    same(ours(TEXTS, top_k=None), theirs(TEXTS, top_k=None))
    same(ours(TEXTS[0], top_k=None), theirs(TEXTS[0], top_k=None))
    same(ours(TEXTS, top_k=1), theirs(TEXTS, top_k=1))
    same(ours(TEXTS, batch_size=3), theirs(TEXTS))
    for function in ("none", "sigmoid", "softmax"):
        same(ours(TEXTS, function_to_apply=function), theirs(TEXTS, function_to_apply=function))


@pytest.mark.parametrize("kind", ["bert", "bert-untyped", "roberta", "distilbert", "electra", "deberta-v2", "qwen2"])
def test_pairs_are_answered_as_the_pipeline_answers_them(tmp_path: Path, kind: str) -> None:
    source = families.save(tmp_path / "source", kind, 3)
    ours, theirs = search.load(exported(source, tmp_path, pairs=True)), pipeline(source)
    same(ours(PAIRS), theirs(PAIRS))
    same(ours(PAIRS[0]), theirs(PAIRS[0]))
    same(ours([(pair["text"], pair["text_pair"]) for pair in PAIRS]), theirs(PAIRS))
    same(ours(PAIRS, top_k=2), theirs(PAIRS, top_k=2))


@pytest.mark.parametrize("kind", [kind for kind in families.KINDS if kind not in ("bert", "roberta")])
def test_a_model_of_any_family_answers_as_its_pipeline_in_batches_too(tmp_path: Path, kind: str) -> None:
    source = families.save(tmp_path / "source", kind, 3)
    ours, theirs = search.load(exported(source, tmp_path)), pipeline(source)
    same(ours(TEXTS), theirs(TEXTS))
    same(ours(TEXTS, batch_size=3), theirs(TEXTS))


def test_what_cannot_be_answered_is_said(tmp_path: Path) -> None:
    model = search.load(exported(families.save(tmp_path / "source", "gpt2", 3), tmp_path))
    with pytest.raises(ValueError, match=r"at least one token, got '' \(number 2\)"):
        model(["a film", ""])
    with pytest.raises(ValueError, match="top_k must be a whole number of 1 or more, or None, got 0"):
        model("a film", top_k=0)
    with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more, got -1"):
        model("a film", batch_size=-1)
    with pytest.raises(ValueError, match="function_to_apply must be softmax, sigmoid or none, got 'relu'"):
        model("a film", function_to_apply="relu")
    assert model([]) == [] and model([], top_k=None) == []


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_pace_of_an_exported_model_is_measured_on_the_inputs_that_it_takes(family: str, tmp_path: Path) -> None:
    """BERT has types of tokens, RoBERTa positions that depend on the padding."""
    pace = warmed(search.load(exported(families.save(tmp_path / "source", family, 3), tmp_path)))
    workload = factory.CONFIG["workload"]
    assert pace is not None and (pace.rows, pace.tokens) == (workload["batch"], workload["length"])
    assert 0 < pace.seconds < 5


class Padding:
    """A runtime that prepares itself for each of a few lengths."""

    lengths = (16, 96, 112, 128, 144)

    def __init__(self) -> None:
        self.met: list[tuple[int, ...]] = []

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert set(batch) == {"input_ids", "attention_mask"} and all((rows == 1).all() for rows in batch.values())
        self.met.append(batch["input_ids"].shape)
        return {"logits": np.zeros((1, 2), np.float32)}


def test_a_served_model_meets_each_length_of_its_runtime_before_a_request_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, runtime = exported(families.save(tmp_path / "source", "roberta", 3), tmp_path), Padding()
    monkeypatch.setattr(build, "open_recipe", lambda *_: runtime)
    loaded(folder, "cpu", 0.0)
    assert runtime.met == [(1, 16), (1, 96), (1, 112), (1, 128)]
    search.load(folder)  # a program of one's own is not made to wait
    assert len(runtime.met) == 4


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "CPU"])
def test_another_device_than_those_that_there_are_is_one_error(device: str) -> None:
    record = SimpleNamespace(conditions={"hardware": {"device": "cpu"}})
    rule = f'device: unknown device "{device}".*valid: auto, cpu, cuda'
    with pytest.raises(UserError, match=rule):
        serving_context(cast(Any, record), device)
    assert serving_context(cast(Any, record), "auto").device == "cpu"
