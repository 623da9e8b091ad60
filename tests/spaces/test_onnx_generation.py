"""Causal language models as graphs: greedy output, logits and scores are those of transformers in each runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from causal import stored
from onnx_models import CASES, VOCABULARY
from opened_graphs import (
    CACHES,
    CPU,
    FP32,
    RUNTIMES,
    Opened,
    answers,
    generated,
    log_likelihood,
    logits,
    prompts,
)
from torch import nn

from spaces import registry
from spaces.generation.prefix import PrefixProgram
from spaces.generation.program import open_program
from spaces.heads import Causal
from spaces.knob import Plan
from spaces.runtimes.eager import Eager
from spaces.weight_groups import groups_to_integers, integers_to_weights


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_greedy_output_is_that_of_generate(name: str, runtime: str, opened: Callable[[str], Opened]) -> None:
    case = opened(name)
    program = case.program(runtime=runtime, precision="fp32")
    for lengths in ((7,), (9, 3, 14), (1, 1)):
        ids, mask = prompts(*lengths)
        expected = generated(case.model, ids, mask)
        assert len(np.unique(expected)) > 4, "an answer of few tokens tells nothing"
        np.testing.assert_array_equal(answers(program, ids, mask), expected)
        np.testing.assert_allclose(program.prefill(ids, mask)[0], logits(case.model, ids, mask)[:, -1], atol=2e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_a_shared_beginning_is_read_once_and_changes_no_output(
    name: str, runtime: str, opened: Callable[[str], Opened]
) -> None:
    program = opened(name).program(runtime=runtime, precision="fp32")
    prefixes = PrefixProgram(program, 10**6)
    whole = prompts(20)[0]
    for length, end in ((20, 0), (12, 8), (12, 1), (20, 0)):
        ids = np.concatenate([whole[:, :length], whole[:, :end]], 1)
        mask = np.ones_like(ids)
        np.testing.assert_array_equal(answers(prefixes, ids, mask), answers(program, ids, mask))
        logits = [one.prefill(ids, mask)[0] for one in (prefixes, program)]
        np.testing.assert_allclose(*logits, atol=2e-5)
    assert (prefixes.hits, prefixes.misses) == (7, 1)
    assert prefixes.nbytes > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_log_likelihoods_of_the_tokens(name: str, runtime: str, opened: Callable[[str], Opened]) -> None:
    case, (ids, mask) = opened(name), prompts(9, 3, 14, 1)
    ids, mask = np.flip(ids, 1).copy(), np.flip(mask, 1).copy()  # padded at the right
    scores = case.scores(ids, mask, runtime, precision="fp32")
    np.testing.assert_allclose(scores, log_likelihood(case.model, ids, mask), atol=2e-5)
    assert scores.dtype == np.float32 and not scores[:, 0].any() and not scores[mask == 0].any()


def test_texts_are_scored_in_as_many_calls_as_memory_asks_for(
    opened: Callable[[str], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, (ids, mask) = opened("llama"), prompts(14, 14, 14)
    at_once = case.scores(ids, mask, precision="fp32")
    monkeypatch.setattr("spaces.generation.onnx_program.SCORED_PER_CALL", 20)
    np.testing.assert_allclose(case.scores(ids, mask, precision="fp32"), at_once, atol=1e-5)


def rounded(model: Causal, bits: int, head: int) -> None:
    """The weights of `model` become what its integers stand for."""
    output = model.model.get_output_embeddings()  # type: ignore[operator]
    output.weight = nn.Parameter(output.weight.detach().clone())  # no longer that of the table
    for linear in [m for m in model.modules() if isinstance(m, nn.Linear)]:
        width = head if linear is output else bits
        weights = integers_to_weights(groups_to_integers(linear.weight.detach().numpy(), width), linear.in_features)
        linear.weight = nn.Parameter(torch.from_numpy(weights))


PLANS: tuple[tuple[Plan, int, int], ...] = (
    ({"precision": "int8"}, 8, 8),
    ({"precision": "int4"}, 4, 4),
    ({"precision": "int4", "head": "int8"}, 4, 8),
)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("plan", "bits", "head"), PLANS, ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen3, cut", "gpt2"])
def test_a_plan_gives_the_same_integers_in_scores_and_generation(
    name: str, plan: Plan, bits: int, head: int, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are those of a model whose weights are what the integers stand for, where products are in floating point."""
    monkeypatch.setattr("spaces.generation.onnx_linear.ACCURACY_LEVEL", 1)
    monkeypatch.setattr("spaces.generation.openvino_program.ACTIVATION_GROUP", 0)
    case, model, (ids, mask) = Opened(CASES[name](), tmp_path), CASES[name](), prompts(9, 9)
    rounded(model, bits, head)
    expected = logits(model, ids, mask)[:, -1]
    by_prefill, cache = case.program(runtime=runtime, **plan).prefill(ids[:, :-1], mask[:, 1:])
    by_steps = case.program(runtime=runtime, **plan).decode(ids[:, -1], cache)
    np.testing.assert_allclose(by_prefill, logits(model, ids[:, :-1], mask[:, 1:])[:, -1], atol=1e-4)
    np.testing.assert_allclose(by_steps, expected, atol=1e-4)
    np.testing.assert_allclose(case.scores(ids, mask, runtime, **plan), log_likelihood(model, ids, mask), atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_activations_of_8_bits_lose_less_than_weights_of_4(
    name: str, precision: str, runtime: str, opened: Callable[[str], Opened]
) -> None:
    case, model, (ids, mask) = opened(name), CASES[name](), prompts(9, 9)
    bits = int(precision.removeprefix("int"))
    rounded(model, bits, bits)
    whole, expected = (logits(candidate, ids, mask)[:, -1] for candidate in (case.model, model))
    error = np.abs(case.program(runtime=runtime, precision=precision).prefill(ids, mask)[0] - expected).mean()
    rounded(model, 4, 4)
    assert error < np.abs(logits(model, ids, mask)[:, -1] - whole).mean() / 3


def test_a_graph_holds_the_bytes_that_its_precision_says(opened: Callable[[str], Opened]) -> None:
    """The tied table once in fp32, once more where the head is of integers, and once where both are of the same."""
    case = opened("llama")
    table, body = VOCABULARY * 64, 2 * (64 * (64 + 2 * 32 + 64) + 3 * 64 * 96)
    scaled = 1 + 4 / 32  # bytes a weight in 8 bits
    overhead = 20_000
    for plan, size in (
        ({"precision": "fp32"}, 4 * (table + body)),
        ({"precision": "int8"}, 4 * table + scaled * (table + body)),
        ({"precision": "int8", "embeddings": "int8"}, scaled * (table + body)),
        ({"precision": "int4", "embeddings": "int8", "head": "int8"}, scaled * table + 0.64 * body),
    ):
        assert abs(case.path(**plan).stat().st_size - size) < overhead, plan


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_integer_table_gives_nearly_what_the_float_one_does(runtime: str, opened: Callable[[str], Opened]) -> None:
    case, (ids, mask) = opened("llama"), prompts(9, 3)
    output = case.program(runtime=runtime, precision="int8", embeddings="int8").prefill(ids, mask)[0]
    expected = case.program(runtime=runtime, precision="int8").prefill(ids, mask)[0]
    assert 0 < np.abs(output - expected).mean() < 0.05 * expected.std()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_stored_model_is_opened_for_scores_and_for_generation(name: str, runtime: str, tmp_path: Path) -> None:
    folder, opener, settings = stored(tmp_path, name), registry.runtime_named(runtime), CACHES[runtime]
    ids, mask = prompts(9, 3, 14)
    by_runtime = [
        answers(open_program(folder, reader, FP32, cache, CPU), ids, mask)
        for reader, cache in ((runtime, settings), ("eager", CACHES["onnx"]))
    ]
    np.testing.assert_array_equal(*by_runtime)
    batch = {"input_ids": np.flip(ids, 1).copy(), "attention_mask": np.flip(mask, 1).copy()}
    scores = [one.open(folder, FP32, CPU)(batch)["log_likelihood"] for one in (opener, Eager())]
    np.testing.assert_allclose(*scores, atol=2e-5)
    open_program(folder, runtime, {"precision": "int4", "head": "int8"}, settings, CPU)
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == ["fp32.onnx", "int4-h8.onnx"]
