"""The memory that a model surely takes, known before it is built, and searches that are limited by it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from causal import VOCABULARY, shake

from objectives import memory
from objectives.bench import open_bench
from objectives.memory import ACTIVATIONS_MEMORY, PEAK_MEMORY, WEIGHTS_MEMORY
from objectives.passes import Passes
from objectives.shapes import Shapes, matrix_bytes
from search.config.schema import LimitsConfig
from search.front.outcome import LATENCY, Outcome
from search.propose.surrogate.memory_bound import MemoryBound, memory_limit
from search.propose.surrogate.step_reads import StepReads
from search.space.sizes import outline_of, shapes_of
from search.space.space import Params, Space
from spaces import build
from spaces.base import Base, skeleton, write_folder
from spaces.cache_settings import CacheSettings
from spaces.generation.causal_predict import NEW_TOKENS
from spaces.runtime import Context
from spaces.shape import LayerShape, Shape
from tests.worlds import decoding

from . import factory
from .test_predicted_generations import cost_model_of, searched

#: A model whose matrices and caches are larger than what the memory of a process varies by.
BLOCKS, HIDDEN, HEADS, HEAD_DIM, NEURONS = 8, 256, 4, 64, 1024
WIDE = Shape(
    hidden=HIDDEN,
    head_dim=HEAD_DIM,
    group=1,
    layers=(LayerShape(heads=HEADS, neurons=NEURONS),) * BLOCKS,
    prunable_heads=True,
    prunable_hidden=True,
)
ROWS, PROMPT, NEW = 4, 1008, 16
CONTEXT = Context(threads=1, cache_tokens=PROMPT + NEW)
CALL = Passes.of(LATENCY, {"batch": ROWS, "length": PROMPT, "new_tokens": NEW})
MATRICES = 4 * (BLOCKS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * NEURONS) + HIDDEN * VOCABULARY)
#: Bytes of the keys and values of one token in fp32.
A_TOKEN = 4 * BLOCKS * 2 * HEADS * HEAD_DIM
#: Bytes of what the largest matrix reads and writes for all tokens of the prompts.
WORKING = 4 * ROWS * PROMPT * (HIDDEN + NEURONS)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=BLOCKS,
        intermediate_size=NEURONS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        tie_word_embeddings=True,
    )
    base = Base("tiny/wide", "main", "causal", (), ("input_ids", "attention_mask"), config.to_dict())
    folder, model = tmp_path_factory.mktemp("wide"), skeleton(base)
    shake(model.requires_grad_(False))
    write_folder(folder, model, base, {})
    return folder


def sizes(folder: Path) -> Shapes:
    return shapes_of(Space({}, WIDE, ()), [{}], outline_of(folder))


def least_bytes(folder: Path, settings: Params, bound: MemoryBound) -> float:
    shapes = sizes(folder)
    [least] = bound.megabytes(shapes, matrix_bytes(shapes, "fp32") / 1e6, {"runtime.name": "eager", **settings})
    return float(least * 1e6)


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [({"cache.kind": "static"}, 1024), ({}, 1024), ({"cache.kind": "sliding", "cache.window": 96}, 100)],
)
def test_a_model_takes_its_matrices_and_its_cache_at_the_end_of_a_call_at_least(
    wide: Path, settings: Params, tokens: int
) -> None:
    bound = MemoryBound(CALL, StepReads(WIDE, CONTEXT))
    at_end = ROWS * (tokens * A_TOKEN + 4 * VOCABULARY)
    assert least_bytes(wide, settings, bound) == pytest.approx(MATRICES + max(WORKING, at_end))


def test_a_model_that_generates_nothing_takes_what_its_largest_matrix_reads_and_writes(wide: Path) -> None:
    assert least_bytes(wide, {}, MemoryBound(CALL, None)) == pytest.approx(MATRICES + WORKING)


def test_no_model_takes_less_than_its_bound(wide: Path) -> None:
    """Measured in a process of its own, whose memory before the model was opened counts."""
    cache = CacheSettings("static")
    opening = functools.partial(build.open_predict, wide, "eager", {"precision": "fp32"}, CONTEXT, cache)
    ids = np.random.default_rng(0).integers(4, VOCABULARY, (ROWS, PROMPT))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), NEW_TOKENS: np.full(ROWS, NEW)}
    with open_bench(opening, threads=1) as bench:
        bench.call("predict", [batch])
        measured = memory.memory(bench)
    bound = MemoryBound(CALL, StepReads(WIDE, CONTEXT))
    bound.learn(Outcome(0, factory.recipe(), "complete", measurements=measured))
    least = least_bytes(wide, {"cache.kind": "static"}, bound)
    assert MATRICES + ROWS * CONTEXT.cache_tokens * A_TOKEN < least <= 1e6 * measured[PEAK_MEMORY.name].value


def test_the_lower_of_two_limits_of_memory_counts() -> None:
    assert memory_limit(LimitsConfig()) == float("inf")
    assert memory_limit(LimitsConfig(max_memory_mb=300)) == 300
    assert memory_limit(LimitsConfig(max_memory_mb=300, others={PEAK_MEMORY.name: 200, "size_mb": 9})) == 200


@pytest.mark.parametrize("limits", [{"max_memory_mb": 100.0}, {"others": {"peak_memory_mb": 100.0}}])
def test_what_is_surely_over_the_limit_of_memory_is_not_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    """The matrices of the uncompressed model take 168 MB in fp32, 42 in int8 and 21 in int4."""
    world = decoding.decoding("tpot_ms")
    model = cost_model_of(world, tmp_path, monkeypatch, LimitsConfig(**cast(Any, limits)))
    searched(world, "random", 0, 12, model)
    small = {**world.space.off, "distill.layers": 4, "prune.neurons": 0.25}

    def allowed(params: Params) -> list[bool]:
        return [bool(np.isfinite(cost)) for cost in model.costs([params])[0][0]]

    assert allowed(world.space.off) == [False, False, True, True]
    assert allowed(small) == [True] * 4
    figures = (PEAK_MEMORY.counted(500, {}), WEIGHTS_MEMORY.counted(200, {}), ACTIVATIONS_MEMORY.counted(220, {}))
    empty = Outcome(0, factory.recipe(), "complete", measurements={figure.objective: figure for figure in figures})
    model.observe(empty, cast(Any, None))  # a process takes 80 MB before it opens a model
    assert allowed(world.space.off) == [False, False, False, True]
