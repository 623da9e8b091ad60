"""What graphs of causal language models hold, and what they refuse: full caches, paddings, plans, devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from causal import stored
from onnx_models import causal
from opened_graphs import (
    CACHES,
    FP32,
    RUNTIMES,
    Opened,
    prompts,
)

from spaces import registry
from spaces.errors import Infeasible
from spaces.generation import onnx_decoder
from spaces.generation.onnx_linear import Precision
from spaces.generation.onnx_program import OnnxProgram
from spaces.generation.program import CacheFullError, CacheSettings, GeneratingRuntime, open_program
from spaces.runtime import Context


def test_a_full_cache_is_an_error_and_no_step(opened: Callable[[str], Opened]) -> None:
    program, (ids, mask) = opened("llama").program(capacity=10, precision="fp32"), prompts(8, 3)
    scores, cache = program.prefill(ids, mask)
    assert cache.length == 8 and cache.nbytes == 2 * 2 * 2 * 2 * 10 * 16 * 4  # rows, blocks, both, heads, tokens, width
    for _ in range(2):
        scores = program.decode(scores.argmax(-1), cache)
    with pytest.raises(CacheFullError, match="10 tokens"):
        program.decode(scores.argmax(-1), cache)
    assert cache.length == 10
    with pytest.raises(CacheFullError, match="10 tokens, got 11"):
        program.prefill(*prompts(11))


class Crowded:
    """A session before whose runs other arrays of a prompt's sizes are made, which take the memory that is free."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        others = [np.full(shape, 3, kind) for shape in ((1, 100), (1,), (1, 1)) for kind in (np.int64, np.int32)] * 20
        self.session.run_with_iobinding(binding, options)
        assert len(others) == 120


def test_the_memory_of_a_prompt_is_held_while_it_is_read(opened: Callable[[str], Opened]) -> None:
    """The session reads it by its address, so whatever takes that memory first would be read instead."""
    (ids, mask), cache = prompts(100), CacheSettings("static", capacity=128)
    session = opened("llama").session(precision="fp32")
    expected, scores = (OnnxProgram(s, cache).prefill(ids, mask)[0] for s in (session, Crowded(session)))
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_table_of_positions_bounds_the_cache(runtime: str, opened: Callable[[str], Opened]) -> None:
    program = opened("gpt2").program(4096, runtime, precision="fp32")
    with pytest.raises(CacheFullError, match="128 tokens, got 129"):
        program.prefill(*prompts(129))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("mask", [[[1, 1, 0]], [[1, 0, 1]], [[0, 0, 0]]], ids=str)
def test_padding_elsewhere_is_refused(mask: list[list[int]], runtime: str, opened: Callable[[str], Opened]) -> None:
    with pytest.raises(ValueError, match="padded on the left"):
        opened("llama").program(runtime=runtime, precision="fp32").prefill(np.array([[5, 6, 7]]), np.array(mask))


def test_plans_and_caches_that_there_are_not_are_infeasible(tmp_path: Path) -> None:
    folder, static = stored(tmp_path), CacheSettings("static")
    with pytest.raises(Infeasible, match="onnx has no dynamic cache on cpu; it has static"):
        open_program(folder, "onnx", FP32, CacheSettings("dynamic"), Context())
    with pytest.raises(Infeasible, match="onnx has no int8-static kernels on this cpu"):
        open_program(folder, "onnx", {"precision": "int8-static"}, static, Context())
    with pytest.raises(Infeasible, match=r"bits.head: eager"):
        open_program(folder, "eager", {**FP32, "head": "int8"}, static, Context())


def test_what_a_graph_cannot_have_is_infeasible(tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match="got int8-static"):
        Precision.of({"precision": "int8-static"})
    model = causal("llama")
    model.backbone.config.model_type = "bert"  # type: ignore[union-attr]
    with pytest.raises(Infeasible, match="got bert"):
        onnx_decoder.write(model, Precision.of({"precision": "fp32"}), tmp_path / "graph.onnx")
    model = causal("llama")
    model.backbone.rotary_emb.rope_type = "dynamic"  # type: ignore[union-attr]
    with pytest.raises(Infeasible, match="dynamic"):
        onnx_decoder.write(model, Precision.of({"precision": "fp32"}), tmp_path / "graph.onnx")


def test_graphs_generate_on_the_cpu_alone(tmp_path: Path) -> None:
    runtime, device = registry.runtime_named("onnx"), Context("cuda")
    assert isinstance(runtime, GeneratingRuntime)
    assert runtime.generating_precisions(device) == () and runtime.cache_kinds(device) == ()
    with pytest.raises(Infeasible, match="onnx does not generate text on cuda"):
        open_program(tmp_path, "onnx", {"precision": "fp32"}, CACHES["onnx"], device)
