"""An exported embedding model opens in sentence-transformers and encodes equally, or refuses and names search.load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from search.deliver.sentence_folder import SENTENCE_FOLDER, write_sentence_folder
from search.tasks.tokens import encode
from spaces import build
from spaces.base import Base, TaskModel, load_base, write_folder
from spaces.knob import Value
from spaces.losses import EMBEDDING_LOSSES
from spaces.pooling import read_pooling
from spaces.recipe import Recipe, Step
from spaces.statistics import Statistics
from spaces.statistics_pass import collect

TEXTS = [row["text"] for row in tiny.sentences(24, 0)]


@dataclass(frozen=True)
class Teacher:
    model: TaskModel
    base: Base
    statistics: Statistics


def inputs_of(texts: list[str]) -> dict[str, torch.Tensor]:
    encoded = encode(tiny.word_tokenizer(), texts, None, 12)
    batch = encoded.batch(np.arange(len(texts)))
    return {name: torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask")}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = tiny.bert(tmp_path_factory.mktemp("teacher"), num_hidden_layers=3)
    model, base = load_base(folder, "tiny", "main", "embedding", (), {})
    losses = EMBEDDING_LOSSES
    batches = [(inputs_of(TEXTS), torch.zeros(len(TEXTS), dtype=torch.int64))]
    return Teacher(model, base, collect(model, batches, losses.loss, losses.divergence))


def recipe_of(settings: Mapping[str, Value], runtime: str = "eager") -> Recipe:
    axes: dict[str, dict[str, Value]] = {}
    for name, value in settings.items():
        axes.setdefault(name.partition(".")[0], {})[name.partition(".")[2]] = value
    steps = tuple(Step(axis, knobs) for axis, knobs in axes.items())
    return Recipe("base", "sentence-similarity", "teacher", steps, {}, Step(runtime))


def exported(folder: Path, teacher: Teacher, settings: Mapping[str, Value]) -> bool:
    recipe = recipe_of(settings)
    plans = build.decide(recipe.steps, teacher.statistics)
    model = build.build(teacher.model, plans, teacher.statistics)
    write_folder(folder, model, teacher.base, plans)
    tiny.word_tokenizer().save_pretrained(folder)
    return write_sentence_folder(folder, recipe, 12)


def opened(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, 32),
        ({"distill.layers": 2}, 32),
        ({"prune.neurons": 0.5, "prune.criterion": "uniform"}, 32),
        ({"embedding.size": 8}, 8),
        ({"embedding.size": 8, "distill.layers": 1, "prune.neurons": 0.25, "prune.criterion": "uniform"}, 8),
    ],
    ids=["whole", "depth", "neurons", "embedding", "all"],
)
def test_what_plain_transformers_can_load_encodes_equally(
    teacher: Teacher, tmp_path: Path, settings: dict[str, Value], size: int
) -> None:
    assert exported(tmp_path, teacher, settings)
    with torch.no_grad():
        wanted = build.load_model(tmp_path)(**inputs_of(TEXTS)).numpy()
    assert wanted.shape == (len(TEXTS), size)
    for folder in (tmp_path, tmp_path / SENTENCE_FOLDER):
        theirs = opened(folder)
        assert theirs.max_seq_length == 12
        np.testing.assert_allclose(theirs.encode(TEXTS), wanted, atol=1e-5)
    again, _ = load_base(tmp_path / SENTENCE_FOLDER, "again", "main", "embedding", (), {})
    with torch.no_grad():
        np.testing.assert_allclose(again(**inputs_of(TEXTS)).numpy(), wanted, atol=1e-5)
    assert read_pooling(tmp_path / SENTENCE_FOLDER)[0].size(32) == size


@pytest.mark.parametrize(
    "settings",
    [
        {"prune.heads": 0.5},
        {"low_rank.rank": 0.5},
        {"bits.precision": "int8"},
        {"distill.layers": 2, "bits.precision": "int8"},
    ],
    ids=",".join,
)
def test_what_it_cannot_refuses_and_names_what_opens_it(
    teacher: Teacher, tmp_path: Path, settings: dict[str, Value]
) -> None:
    assert not exported(tmp_path, teacher, settings)
    assert not (tmp_path / SENTENCE_FOLDER).exists()
    with pytest.raises(ValueError, match=r"search\.load\(DIR\)"):
        opened(tmp_path)


def test_transformers_alone_still_refuses_the_whole_folder(teacher: Teacher, tmp_path: Path) -> None:
    from transformers import AutoModel

    assert exported(tmp_path, teacher, {"distill.layers": 2})
    with pytest.raises(ValueError, match=r"search\.load\(DIR\)"):
        AutoModel.from_pretrained(tmp_path, trust_remote_code=False)
    loaded, about = AutoModel.from_pretrained(
        tmp_path / SENTENCE_FOLDER, trust_remote_code=False, output_loading_info=True
    )
    assert not about["missing_keys"] and len(loaded.encoder.layer) == 2, "no tensor is drawn at random"


@pytest.mark.parametrize(
    "settings",
    [
        {"distill.width": 0.625},  # 128 numbers, which six heads do not divide
        {
            "distill.width": 0.5,
            "prune.heads": 0.5,
            "prune.criterion": "uniform",
        },  # q is six by half
    ],
)
def test_heads_of_another_size_than_transformers_would_make_have_no_such_folder(
    settings: dict[str, Value], tmp_path: Path
) -> None:
    sizes = {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 64, "num_hidden_layers": 2}
    model, base = load_base(tiny.bert(tmp_path / "wide", **sizes), "tiny", "main", "embedding", (), {})
    losses = EMBEDDING_LOSSES
    batches = [(inputs_of(TEXTS), torch.zeros(len(TEXTS), dtype=torch.int64))]
    wide = Teacher(model, base, collect(model, batches, losses.loss, losses.divergence))
    assert not exported(tmp_path / "out", wide, settings)
    assert not (tmp_path / "out" / SENTENCE_FOLDER).exists()


def test_a_model_without_embeddings_has_no_such_folder(tmp_path: Path) -> None:
    tiny.classifier(tmp_path / "model")
    model, base = load_base(tmp_path / "model", "tiny", "main", "native", tiny.LABELS, {})
    write_folder(tmp_path / "out", model, base, {})
    assert not write_sentence_folder(tmp_path / "out", recipe_of({}), 12)
