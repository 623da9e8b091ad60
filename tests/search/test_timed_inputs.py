"""What timed calls read: random tokens, and texts of the data where the time depends on what is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from objectives.workload import BATCHES
from search.errors import UserError
from search.measure.timed_inputs import with_texts
from search.measure.timing import Timings
from search.space.deployments import Deployment
from search.tasks import task_named
from search.tasks.tokens import Encoded
from spaces.base import Base, skeleton, write_folder
from spaces.cache_settings import CacheSettings
from spaces.runtime import Context

LENGTHS = (12, 3, 8, 20, 9)
LOOKUP = Deployment("onnx", "fp32", CacheSettings("static", speculation="prompt_lookup"))


def texts(first: int = 100) -> Encoded:
    """Row i is the tokens from `first` + 100 * i on."""
    rows = [np.arange(n) + first + 100 * i for i, n in enumerate(LENGTHS)]
    columns = {"input_ids": rows, "attention_mask": [np.ones(n, np.int64) for n in LENGTHS]}
    return Encoded(columns, {"input_ids": 0, "attention_mask": 0}, np.array(LENGTHS))


def prompts(count: int, length: int) -> list[dict[str, np.ndarray]]:
    each = {"input_ids": np.zeros((1, length), np.int64), "attention_mask": np.ones((1, length), np.int64)}
    return [{**each, "new_tokens": np.array([4])} for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "bert", "max_position_embeddings": 64, "intermediate_size": 8, **sizes}
    base = Base("small", "none", "mean", ("a", "b"), ("input_ids", "attention_mask"), config)
    write_folder(path, skeleton(base), base, {})
    return path


def inputs(folder: Path, deployments: tuple[Deployment, ...], rows: Encoded) -> tuple[list[Any], dict[str, Any]]:
    """Batches and conditions of the main workload of a search."""
    load = SimpleNamespace(batch=1, length=8, new_tokens=4)
    prepared = SimpleNamespace(
        config=SimpleNamespace(workload=load, seed=0),
        teacher=folder,
        context=Context("cpu", 1),
        environment={},
        task=task_named("causal-lm"),
        space=SimpleNamespace(deployments=deployments),
        split=lambda name: SimpleNamespace(encoded=rows, calls=np.ones(len(LENGTHS), np.int64)),
    )
    return Timings(cast(Any, prepared), cast(Any, None)).inputs("")


def test_prompts_are_the_beginnings_of_texts_that_are_long_enough() -> None:
    batches = with_texts(prompts(8, 9), texts())
    begins = [int(batch["input_ids"][0, 0]) for batch in batches]
    assert set(begins) == {100, 400, 500} and begins == sorted(begins)
    for batch in batches:
        np.testing.assert_array_equal(batch["input_ids"][0], batch["input_ids"][0, 0] + np.arange(9))
        assert batch["attention_mask"].all() and batch["new_tokens"].tolist() == [4]


def test_prompts_that_no_text_is_long_enough_for_are_refused() -> None:
    with pytest.raises(UserError, match=r"workload\.prompt: must be at most 20 tokens, .*speculation.* got 21"):
        with_texts(prompts(2, 21), texts())


def test_calls_that_look_up_what_was_said_continue_texts_of_the_data(folder: Path) -> None:
    """Of random tokens a model makes a text that repeats itself as no text of a user does."""
    plain = (Deployment("onnx", "fp32", CacheSettings("static")),)
    batches, conditions = inputs(folder, plain, texts())
    assert "fed" not in conditions and max(int(batch["input_ids"].max()) for batch in batches) < 50
    batches, conditions = inputs(folder, (*plain, LOOKUP), texts())
    assert len(batches) == BATCHES and {int(batch["input_ids"][0, 0]) for batch in batches} == {100, 300, 400, 500}
    assert inputs(folder, (*plain, LOOKUP), texts())[1] == conditions
    other = inputs(folder, (*plain, LOOKUP), texts(200))[1]
    assert other["fed"] != conditions["fed"] and {**other, "fed": ""} == {**conditions, "fed": ""}
