"""A model of another embedding size than its files say, or with outputs that are no numbers, ends a command with 2."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import command
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from search.cli.main import main

from .test_question_answering import facts
from .test_similarity import pairs

TASKS: Mapping[str, tuple[Callable[[int, int], Sequence[Mapping[str, Any]]], dict[str, Any]]] = {
    "sentence-similarity": (pairs, {"max_length": 16}),
    "question-answering": (facts, {"max_length": 12, "doc_stride": 3}),
    "classification": (tiny.sentences, {"max_length": 16}),
}
MODULE = "sentence_transformers.models."


def embedder(folder: Path, size: int = 32, takes: int = 32, weights: tuple[int, int] = (16, 32)) -> None:
    """A folder of sentence-transformers: the encoder's hidden size is 32, its pooling names another `size`.

    The layer behind takes `takes` numbers and gives 16, and its weights have the shape `weights`.
    """
    tiny.bert(folder)
    layer = {"in_features": takes, "out_features": 16, "activation_function": "torch.nn.modules.linear.Identity"}
    pooling = {"word_embedding_dimension": size, "pooling_mode_mean_tokens": True}
    for path, content in (("1_Pooling", pooling), ("2_Dense", {**layer, "bias": False})):
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(content))
    save_file({"linear.weight": torch.ones(weights)}, folder / "2_Dense" / "model.safetensors")
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    modules = [{"idx": i, "name": str(i), "path": p, "type": MODULE + kind} for i, (p, kind) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))


def with_norm(folder: Path, task: str, value: float) -> None:
    """An encoder, with its head where the task has one, whose last norm multiplies by `value`."""
    from transformers import BertConfig, BertForQuestionAnswering

    if task == "classification":
        tiny.classifier(folder)
    else:
        tiny.bert(folder)
    if task == "question-answering":
        BertForQuestionAnswering(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    [norm] = [name for name in tensors if name.endswith("layer.1.output.LayerNorm.weight")]
    tensors[norm].fill_(value)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def plan_of(folder: Path, task: str, make: Callable[[Path], None]) -> Path:
    """A configuration over 60 rows and the model that `make` writes."""
    rows, data = TASKS[task]
    make(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60, 0)), encoding="utf-8")
    return command.write_config(
        folder / "config.yaml",
        task=task,
        model={"name": "model"},
        data={"train": "rows.jsonl", "validation": None, "test": None, **data},
        teacher={"epochs": 0},
    )


def refusal(config: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error that `plan` ends with."""
    capsys.readouterr()  # what was said before
    assert main(["plan", str(config), "--mlruns", str(config.parent / "mlruns")]) == 2
    errors = capsys.readouterr().err.splitlines()
    [error] = [line for line in errors if line.startswith("error: ")]
    assert not any("Traceback" in line for line in errors) and str(config) in error
    return error


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"size": 48}, "1_Pooling/config.json: the embedding dimension must be the model's hidden size 32, got 48"),
        ({"takes": 48}, "2_Dense/config.json: in_features must be 32, got 48"),
        ({"weights": (20, 32)}, "2_Dense/model.safetensors: must hold the tensors that config.json describes"),
    ],
    ids=["pooling", "layer", "weights"],
)
def test_embeddings_of_another_size_than_the_files_say_are_refused(
    tmp_path: Path, sizes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = plan_of(tmp_path, "sentence-similarity", lambda folder: embedder(folder, **sizes))
    assert message in refusal(config, capsys)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "output.LayerNorm.weight holds numbers that are infinite or not a number"),
        (3e38, "gives outputs that are infinite or not a number for its tokenizer's tokens"),
    ],
    ids=["weights", "outputs"],
)
def test_a_model_without_numbers_is_refused_before_anything_is_searched(
    tmp_path: Path, task: str, value: float, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = plan_of(tmp_path, task, lambda folder: with_norm(folder, task, value))
    error = refusal(config, capsys)
    assert message in error and "model.name: " in error
