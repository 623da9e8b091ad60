"""TensorRT: what can be known of it without a GPU; the run itself is marked `gpu`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import arrays_of, subject

from spaces import build, registry
from spaces.errors import Infeasible
from spaces.runtime import Context
from spaces.runtimes import onnx, tensorrt

CUDA = Context("cuda")
RUNTIME = registry.runtime_named("tensorrt")
FP32 = {"precision": "fp32"}
WITH = [tensorrt.PROVIDER, "CUDAExecutionProvider", "CPUExecutionProvider"]
here = torch.cuda.is_available() and RUNTIME.missing(CUDA) is None
gpu = [pytest.mark.gpu, pytest.mark.skipif(not here, reason="needs TensorRT and a CUDA device; never run by us")]


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those that this onnxruntime claims to have."""
    names = list(WITH)
    monkeypatch.setattr(onnx, "absent", list)
    monkeypatch.setattr(onnx, "providers", lambda: names)
    return names


def test_it_is_here_where_onnx_runtime_has_the_provider(providers: list[str]) -> None:
    assert RUNTIME.missing(CUDA) is None
    assert RUNTIME.precisions(CUDA) == ("fp32", "fp16")
    providers.remove(tensorrt.PROVIDER)
    assert RUNTIME.missing(CUDA) == ("this onnxruntime has no TensorRT provider: pip install onnxruntime-gpu tensorrt")


def test_a_cpu_has_none_whatever_is_installed(providers: list[str]) -> None:
    assert RUNTIME.missing(Context()) == f"TensorRT needs a CUDA device, and: {RUNTIME.install}"


def test_without_onnx_runtime_its_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    why = str(RUNTIME.missing(CUDA))
    assert why.startswith("onnxruntime, onnx, onnxscript not installed: ") and RUNTIME.install in why


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_are_kept_in_the_users_own_cache_and_not_beside_the_graph(
    precision: str, providers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(onnx, "graph", lambda folder, plan, fused: folder / onnx.file_of(plan, fused))
    monkeypatch.setattr(onnx, "OnnxPredict", lambda *arguments: asked.append(arguments))
    RUNTIME.open(tmp_path, {"precision": precision}, CUDA)
    ((path, _, ((name, options), fallback)),) = asked
    assert path == tmp_path / RUNTIME.files({"precision": precision})[0]
    assert name == tensorrt.PROVIDER and fallback == ("CUDAExecutionProvider", {})
    assert options["trt_fp16_enable"] is (precision == "fp16")
    engines = Path(options["trt_engine_cache_path"])
    assert options["trt_engine_cache_enable"] and engines.is_dir()
    assert engines.is_relative_to(tmp_path / "user") and not (tmp_path / "onnx").exists()
    RUNTIME.open(tmp_path, {"precision": precision}, CUDA)
    assert asked[1][2] == asked[0][2]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user"))
    assert tensorrt.options(path, precision)["trt_engine_cache_path"] != str(engines)


def test_other_precisions_have_no_kernels(providers: list[str], tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match="tensorrt has no bf16 kernels"):
        RUNTIME.open(tmp_path, {"precision": "bf16"}, CUDA)


@pytest.mark.skipif(registry.runtime_named("onnx").missing(Context()) is not None, reason="needs ONNX Runtime")
def test_a_provider_that_onnx_runtime_does_not_take_is_infeasible(folder: Path) -> None:
    """Where the libraries are missing, ONNX Runtime goes on with the next provider and only warns."""
    if tensorrt.PROVIDER in onnx.providers():
        pytest.skip("it has the provider")
    path = onnx.graph(folder, FP32)
    wanted: list[tuple[str, dict[str, Any]]] = [(tensorrt.PROVIDER, {}), ("CPUExecutionProvider", {})]
    with pytest.raises(Infeasible, match=f"did not take the {tensorrt.PROVIDER}"):
        onnx.OnnxPredict(path, Context(threads=1), wanted)


@pytest.mark.parametrize("precision", [pytest.param(w, marks=gpu) for w in ("fp32", "fp16")])
def test_it_gives_the_logits_of_eager(precision: str, folder: Path) -> None:
    predict = build.open_predict(folder, "tensorrt", {"precision": precision}, CUDA)
    eager = build.open_predict(folder, "eager", FP32, Context())
    for lengths in ((7, 4, 7, 2), (9,), (33, 17)):
        batch = arrays_of(subject().base, lengths)
        exact = eager(batch)["logits"]
        loose = 1e-3 if precision == "fp32" else 0.1
        np.testing.assert_allclose(predict(batch)["logits"], exact, atol=loose * np.abs(exact).max())
