"""ONNX files: integer kernels in them, made once, never half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import arrays_of, stored, subject
from torch import nn

from spaces import build, registry
from spaces.runtime import Context
from spaces.runtimes import onnx, quantise

CPU = Context(threads=1)
FP32 = {"precision": "fp32"}
pytestmark = pytest.mark.skipif(registry.runtime_named("onnx").missing(CPU) is not None, reason="needs ONNX Runtime")


def test_int8_runs_integer_products_over_every_weight(folder: Path) -> None:
    """Proof that a real kernel runs: no product of the graph multiplies a floating-point weight."""
    import onnx as library

    predict = build.open_predict(folder, "onnx", {"precision": "int8"}, CPU)
    (name,) = registry.runtime_named("onnx").files({"precision": "int8"})
    graph = library.load(str(folder / name)).graph
    kinds = [node.op_type for node in graph.node]
    matrices = sum(isinstance(m, nn.Linear) for m in build.load_model(folder).modules())
    assert sum(k in ("MatMulInteger", "DynamicQuantizeMatMul") for k in kinds) == matrices
    floating = {t.name for t in graph.initializer if t.data_type == library.TensorProto.FLOAT and len(t.dims) == 2}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert not any(set(node.input) & floating for node in products)
    wide = folder / registry.runtime_named("onnx").files(FP32)[0]
    assert (folder / name).stat().st_size < wide.stat().st_size
    batch = arrays_of(subject().base, (9, 4))
    exact = build.open_predict(folder, "eager", FP32, CPU)(batch)["logits"]
    np.testing.assert_allclose(predict(batch)["logits"], exact, atol=0.1 * np.abs(exact).max())


@pytest.mark.parametrize("case", ["gpt2", "modernbert", "deberta-v2"])
def test_matrices_that_were_taken_apart_are_exported(case: str, tmp_path: Path) -> None:
    path, base = stored(tmp_path, case, "native"), subject(case, "native").base
    eager, predict = (build.open_predict(path, runtime, FP32, CPU) for runtime in ("eager", "onnx"))
    for lengths in ((6, 3), (1,), (17, 2, 9)):
        batch = arrays_of(base, lengths)
        np.testing.assert_allclose(predict(batch)["logits"], eager(batch)["logits"], atol=1e-4, rtol=0)


def test_graphs_are_made_once_and_found_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in ("fp32", "int8"):
        build.open_predict(folder, "onnx", {"precision": precision}, CPU)
    times = {p.name: p.stat().st_mtime_ns for p in (folder / onnx.ONNX_FOLDER).iterdir()}
    assert set(times) == {"fp32.onnx", "int8.onnx"}

    def again(*_: Any) -> None:
        raise AssertionError("the graph was made again")

    monkeypatch.setattr(onnx, "write_graph", again)
    monkeypatch.setattr(quantise, "dynamic", again)
    for precision in ("fp32", "int8"):
        build.open_predict(folder, "onnx", {"precision": precision}, CPU)
    assert {p.name: p.stat().st_mtime_ns for p in (folder / onnx.ONNX_FOLDER).iterdir()} == times


def test_an_export_that_fails_or_is_killed_leaves_nothing_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(_: Path, path: Path, *__: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(onnx, "write_graph", half)
    with pytest.raises(OSError, match="disk full"):
        onnx.graph(tmp_path, FP32)
    assert list((tmp_path / onnx.ONNX_FOLDER).iterdir()) == []
    # What a killed process leaves has another name.
    (tmp_path / onnx.ONNX_FOLDER / ".fp32.onnx.1").write_bytes(b"half")
    monkeypatch.setattr(onnx, "write_graph", lambda _, path, *__: path.write_bytes(b"whole"))
    assert onnx.graph(tmp_path, FP32).read_bytes() == b"whole"


def test_rotary_frequencies_are_exact_in_half_precision(tmp_path: Path) -> None:
    """Rounded to 16 bits they are off by a radian after a few thousand positions."""
    import onnx as library

    folder = stored(tmp_path / "model", "llama", "native")
    onnx.write_graph(folder, tmp_path / "fp16.onnx", "fp16", True)
    exact = dict(build.load_model(folder).named_buffers())["model.model.rotary_emb.inv_freq"].numpy()
    constants = [library.numpy_helper.to_array(t) for t in library.load(tmp_path / "fp16.onnx").graph.initializer]
    assert {array.dtype for array in constants if array.ndim == 2} == {np.dtype(np.float16)}
    assert any(array.dtype == np.float32 and np.array_equal(array.ravel(), exact) for array in constants)


def test_matrices_and_tables_alone_are_stored_in_bf16(tmp_path: Path) -> None:
    """Angles of positions, for one, lose whole turns by it."""
    import onnx as library
    from onnx import TensorProto, helper, numpy_helper

    shapes = {"table": (7, 4), "matrix": (4, 3), "angles": (1, 1, 3)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrix"], ["product"]),
        helper.make_node("Mul", ["product", "angles"], ["output"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 2])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 2, 3])
    constants = [numpy_helper.from_array(np.full(shape, 0.1, np.float32), name) for name, shape in shapes.items()]
    library.save(helper.make_model(helper.make_graph(nodes, "graph", [ids], [output], constants)), tmp_path / "fp32")
    quantise.bfloat16(tmp_path / "fp32", tmp_path / "bf16")
    types = {t.name: t.data_type for t in library.load(tmp_path / "bf16").graph.initializer}
    rounded = dict.fromkeys(("table.bf16", "matrix.bf16"), TensorProto.BFLOAT16)
    assert types == {**rounded, "angles": TensorProto.FLOAT}
