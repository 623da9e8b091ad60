"""Attention as one operator: in graphs of every family that has such an attention, with equal outputs."""

from __future__ import annotations

from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from models import DEPTH, arrays_of, subject

from spaces import build, registry
from spaces.base import write_folder
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes import onnx
from spaces.runtimes.tensorrt import TensorRt

CPU = Context(threads=1)
FP32: Plan = {"precision": "fp32"}
pytestmark = pytest.mark.skipif(registry.runtime_named("onnx").missing(CPU) is not None, reason="needs ONNX Runtime")


def written(case: str, folder: Path) -> Path:
    one = subject(case)
    write_folder(folder, one.model, one.base, {})
    return folder


def operators(path: Path) -> Counter[str]:
    import onnx as library

    return Counter(node.op_type for node in library.load(path).graph.node)


@pytest.mark.parametrize("case", ["bert", "modernbert", "qwen3"])
def test_every_block_s_attention_is_one_operator_and_gives_the_same(case: str, tmp_path: Path) -> None:
    folder = written(case, tmp_path / "model")
    assert operators(onnx.graph(folder, FP32))["MultiHeadAttention"] == DEPTH
    plain = onnx.graph(folder, FP32, fused=False)
    assert operators(plain)["MultiHeadAttention"] == 0
    ours, theirs = (onnx.OnnxPredict(path, CPU, onnx.CPU) for path in (onnx.graph(folder, FP32), plain))
    for lengths in ((7, 4, 7, 2), (1,), (30, 11)):
        batch = arrays_of(subject(case).base, lengths)
        np.testing.assert_allclose(ours(batch)["logits"], theirs(batch)["logits"], atol=1e-5)


def test_the_attention_of_a_family_without_the_pattern_stays(tmp_path: Path) -> None:
    """Of MPNet the biases of relative positions, of DeBERTa the positions themselves, are in the scores."""
    folder = written("mpnet", tmp_path / "model")
    batch = arrays_of(subject("mpnet").base, (7, 4))
    exact = build.open_predict(folder, "eager", FP32, CPU)(batch)["logits"]
    np.testing.assert_allclose(build.open_predict(folder, "onnx", FP32, CPU)(batch)["logits"], exact, atol=1e-4)


def test_tensorrt_runs_the_graph_without_it() -> None:
    assert TensorRt().files(FP32) == ("onnx/fp32-unfused.onnx",) != onnx.Onnx().files(FP32)


def test_a_graph_in_which_a_fusion_does_not_end_is_exported_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Between two fusions stands an operator that no runtime has."""
    from onnxscript.rewriter.ort_fusions import sdpa_via_mha

    monkeypatch.setattr(sdpa_via_mha, "replace_sdpa_by_mha", lambda model: 0)
    folder = written("qwen3", tmp_path / "model")
    batch = arrays_of(subject("qwen3").base, (7, 4))
    exact = build.open_predict(folder, "eager", FP32, CPU)(batch)["logits"]
    np.testing.assert_allclose(build.open_predict(folder, "onnx", FP32, CPU)(batch)["logits"], exact, atol=1e-4)
    assert operators(onnx.graph(folder, FP32))["MultiHeadAttention"] == 0


@pytest.mark.skipif(registry.runtime_named("openvino").missing(CPU) is not None, reason="needs OpenVINO")
@pytest.mark.parametrize(("version", "old"), [("2026.2.1", True), ("2026.3.0", False), ("2027.0.0.dev1", False)])
def test_an_openvino_that_does_not_read_the_operator_is_told_with_the_command(
    version: str, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "openvino" else real(name))
    why = registry.runtime_named("openvino").missing(CPU)
    install = 'pip install "transformer-compression-search[openvino]"'
    assert why == (f"openvino {version} is older than 2026.3: {install}" if old else None)
