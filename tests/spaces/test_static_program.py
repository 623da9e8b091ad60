"""Decode steps of fixed shapes, compiled or captured: the tokens of the eager program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from causal import MODELS, causal, generated, prompts, stored
from torch import Tensor

from spaces.generation.program import CacheFullError, CacheSettings, greedy, open_program
from spaces.generation.static_program import Captured, StaticProgram
from spaces.runtime import Context
from spaces.runtimes.compiled import no_compiler

NEW = 10
SETTINGS = CacheSettings("static", capacity=32)
FP32 = {"precision": "fp32"}
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
compiler = pytest.mark.skipif(no_compiler("torch.compile") is not None, reason="needs a C++ compiler")


class Recorder:
    """Replays by calling again over the same buffers into the same output, after warm-up calls, as a graph does."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, call: Any, static: dict[str, Tensor]) -> tuple[Callable[[], Any], Tensor]:
        self.rows.append(len(static["ids"]))
        for _ in range(3):
            call(**static)
        output = call(**static)
        return lambda: output.copy_(call(**static)), output


def answers(opened: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.stack(list(greedy(opened, ids, mask, NEW)), 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_captured_step_gives_the_tokens_of_generate_and_is_captured_once_for_all_lengths(name: str) -> None:
    record = Recorder()
    opened = StaticProgram(causal(name), SETTINGS, "cpu", lambda step: Captured(step, record))
    for lengths in ((9, 3, 14), (7,), (20,), (1, 1, 1)):
        ids, mask = prompts(lengths)
        np.testing.assert_array_equal(answers(opened, ids, mask), generated(causal(name), ids, mask, NEW))
    assert record.rows == [3, 1]


def test_a_larger_batch_has_buffers_of_its_own_over_which_steps_are_captured_anew() -> None:
    record = Recorder()
    opened = StaticProgram(causal("llama"), SETTINGS, "cpu", lambda step: Captured(step, record))
    for lengths in ((7,), (9, 3, 14), (20,), (1, 1, 1), (5,)):
        ids, mask = prompts(lengths)
        np.testing.assert_array_equal(answers(opened, ids, mask), generated(causal("llama"), ids, mask, NEW))
    assert record.rows == [1, 3, 1]


def test_a_step_beyond_the_capacity_is_refused() -> None:
    opened = StaticProgram(causal("llama"), CacheSettings("static", capacity=8), "cpu", lambda step: step)
    _, cache = opened.prefill(*prompts((7,)))
    opened.decode(np.array([5]), cache)
    with pytest.raises(CacheFullError, match="a static cache of 8 tokens must hold prompt and answer, got 9 tokens"):
        opened.decode(np.array([5]), cache)


def test_a_step_beyond_the_positions_of_the_model_is_refused() -> None:
    opened = StaticProgram(causal("gpt2"), CacheSettings("static", capacity=400), "cpu", lambda step: step)
    _, cache = opened.prefill(*prompts((256,)))
    with pytest.raises(CacheFullError, match="the model has positions for 256 tokens, got 257"):
        opened.decode(np.array([5]), cache)


@pytest.mark.parametrize(
    ("runtime", "device"),
    [
        pytest.param("compiled", "cpu", marks=compiler),
        pytest.param("compiled", "cuda", marks=gpu),
        pytest.param("cuda_graph", "cuda", marks=gpu),
    ],
)
def test_a_runtime_decodes_all_lengths_with_one_graph(
    runtime: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU without Inductor's kernels, which take a minute to compile: their graph is the same."""
    from torch._dynamo.utils import counters

    if device == "cpu":
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    folder = stored(tmp_path)
    eager = open_program(folder, "eager", FP32, CacheSettings(), Context(threads=1))
    opened = open_program(folder, runtime, FP32, SETTINGS, Context(device, threads=1))
    before = counters["stats"]["unique_graphs"]
    for lengths in ((7,), (20,), (3,)):
        ids, mask = prompts(lengths)
        np.testing.assert_array_equal(answers(opened, ids, mask), answers(eager, ids, mask))
    assert counters["stats"]["unique_graphs"] - before == (runtime == "compiled")
