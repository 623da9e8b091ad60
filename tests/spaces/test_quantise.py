"""Integer graphs: integer kernels in what really runs, less error where less is rounded, smaller tables."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import DEPTH, HIDDEN, POSITIONS, VOCABULARY, arrays_of, calibrated, subject
from torch import nn

from spaces import build, calibration, registry, sensitivity
from spaces.anatomy import anatomy_of
from spaces.axes.bits import INTEGER
from spaces.bf16 import has_bf16
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes import onnx, quantise
from spaces.runtimes.openvino import compile_options

CPU = Context(threads=1)
FP32 = {"precision": "fp32"}
#: What ONNX Runtime's optimiser may make of a matrix in each precision. None of them multiplies floating-point weights.
KERNELS = {
    "int8": {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"},
    "int8-static": {"QLinearMatMul", "MatMulIntegerToFloat", "QGemm"},
    "int4": {"MatMulNBits"},
}
BATCHES = [arrays_of(subject().base, (9, 4, 12, 7), seed) for seed in range(8)]
pytestmark = pytest.mark.skipif(registry.runtime_named("onnx").missing(CPU) is not None, reason="needs ONNX Runtime")
openvino = pytest.mark.skipif(registry.runtime_named("openvino").missing(CPU) is not None, reason="needs OpenVINO")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three blocks with what integer precisions are made with."""
    return calibrated(tmp_path_factory.mktemp("whole") / "model")


def optimised(path: Path, folder: Path) -> Any:
    """The graph that a session really runs."""
    import onnx as library
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return library.load(folder / "optimised.onnx").graph


def run(folder: Path, plan: Plan, runtime: str = "onnx") -> np.ndarray:
    """Logits of all batches under a plan."""
    predict = build.open_predict(folder, runtime, plan, CPU)
    return np.concatenate([predict(batch)["logits"] for batch in BATCHES])


# --- kernels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", INTEGER)
def test_every_matrix_runs_in_an_integer_kernel(precision: str, whole: Path, tmp_path: Path) -> None:
    model = build.load_model(whole)
    blocks = anatomy_of(model.backbone).blocks
    linears = sum(isinstance(m, nn.Linear) for m in (blocks if precision == "int4" else model).modules())
    ran = optimised(onnx.graph(whole, {"precision": precision}), tmp_path)
    kinds = Counter(node.op_type for node in ran.node)
    assert sum(kinds[kind] for kind in KERNELS[precision]) == linears, kinds
    # int4 leaves the head alone, and it is the only product left with a constant.
    assert len(list(quantise.matrices(ran))) == (1 if precision == "int4" else 0), kinds


@pytest.mark.parametrize("precision", INTEGER)
def test_integers_stay_near_fp32_and_make_the_file_smaller(precision: str, whole: Path) -> None:
    exact = run(whole, FP32)
    error = np.abs(run(whole, {"precision": precision}) - exact).mean() / np.abs(exact).mean()
    assert 0 < error < (0.3 if precision == "int4" else 0.1)
    assert onnx.graph(whole, {"precision": precision}).stat().st_size < onnx.graph(whole, FP32).stat().st_size


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_no_sum_of_two_products_can_leave_16_bits(precision: str, whole: Path) -> None:
    """So a CPU without VNNI, which adds them in 16 bits, gives what any other does."""
    import onnx as library

    graph = library.load(onnx.graph(whole, {"precision": precision})).graph
    weights = [t for t in graph.initializer if t.data_type == library.TensorProto.INT8 and len(t.dims) == 2]
    largest = max(int(np.abs(library.numpy_helper.to_array(t).astype(int)).max()) for t in weights)
    assert largest >= 60 and 2 * 255 * largest < 2**15
    assert len(weights) == sum(isinstance(m, nn.Linear) for m in build.load_model(whole).modules())


# --- calibration --------------------------------------------------------------------------------------------


def test_static_scales_are_those_of_the_calibration_rows(whole: Path, tmp_path: Path) -> None:
    """The same rows give the same graph; a ready graph needs none; without either the file is named."""
    again = shutil.copytree(whole, tmp_path / "again", ignore=shutil.ignore_patterns("*.onnx"))
    plan = {"precision": "int8-static"}
    assert onnx.graph(again, plan).read_bytes() == onnx.graph(whole, plan).read_bytes()
    (again / calibration.CALIBRATION_FILE).unlink()
    np.testing.assert_array_equal(run(again, plan), run(whole, plan))
    onnx.graph(again, plan).unlink()
    with pytest.raises(Infeasible, match=r"calibration\.npz"):
        onnx.graph(again, plan)
    calibration.write(again, arrays_of(subject().base, (3,), seed=99))
    assert np.abs(run(again, plan) - run(whole, plan)).max() > 0


def test_calibration_rows_come_back_without_their_padding(tmp_path: Path) -> None:
    batch = arrays_of(subject().base, (7, 4, 9))
    calibration.write(tmp_path, batch)
    rows = calibration.read(tmp_path)
    assert [row["input_ids"].shape for row in rows] == [(1, 7), (1, 4), (1, 9)]
    for index, row in enumerate(rows):
        assert row["attention_mask"].all()
        np.testing.assert_array_equal(row["input_ids"][0], batch["input_ids"][index, : row["input_ids"].shape[1]])


# --- blocks that stay fp32 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", INTEGER)
def test_with_every_block_wide_the_outputs_are_those_of_fp32(precision: str, whole: Path) -> None:
    np.testing.assert_allclose(run(whole, {"precision": precision, "fp32_blocks": DEPTH}), run(whole, FP32), atol=1e-5)


def test_the_error_falls_as_more_blocks_stay_wide(whole: Path) -> None:
    exact = run(whole, FP32)
    errors = np.zeros(DEPTH + 1)
    for precision in INTEGER:
        curves = [
            np.abs(run(whole, {"precision": precision, "fp32_blocks": n} if n else {"precision": precision}) - exact)
            for n in range(4)
        ]
        errors += [f.mean() / curves[0].mean() for f in curves]  # each precision weighs the same
    assert (np.diff(errors) < 0.1).all(), errors
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("precision", INTEGER)
def test_the_most_sensitive_blocks_are_those_that_stay(precision: str, whole: Path, tmp_path: Path) -> None:
    """A block is spared whole, and which one follows the folder's order."""
    folder = shutil.copytree(whole, tmp_path / "model", ignore=shutil.ignore_patterns("int*"))
    paths = sensitivity.read(folder)
    outputs = []
    for first in paths:
        sensitivity.write(folder, {path: float(path == first) for path in paths})
        ran = optimised(onnx.graph(folder, {"precision": precision, "fp32_blocks": 1}), tmp_path)
        kinds = Counter(node.op_type for node in ran.node)
        linears = sum(isinstance(m, nn.Linear) for m in build.load_model(folder).get_submodule(first).modules())
        assert sum(kinds[kind] for kind in KERNELS[precision]) == linears * (DEPTH - 1)
        assert len(list(quantise.matrices(ran))) == linears + 1  # and the head
        outputs.append(run(folder, {"precision": precision, "fp32_blocks": 1}))
        onnx.graph(folder, {"precision": precision, "fp32_blocks": 1}).unlink()
    assert np.abs(outputs[0] - outputs[1]).max() > 0 and np.abs(outputs[1] - outputs[2]).max() > 0


def test_more_blocks_than_there_are_and_a_missing_order_are_infeasible(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match=rf"bits\.fp32_blocks.*{DEPTH}.*{DEPTH + 1}"):
        onnx.graph(whole, {"precision": "int8", "fp32_blocks": DEPTH + 1})
    bare = shutil.copytree(
        whole, tmp_path / "bare", ignore=shutil.ignore_patterns(sensitivity.SENSITIVITY_FILE, "int*")
    )
    with pytest.raises(Infeasible, match=r"sensitivity\.json"):
        onnx.graph(bare, {"precision": "int8", "fp32_blocks": 1})
    assert {p.name for p in (bare / onnx.ONNX_FOLDER).iterdir()} <= {"fp32.onnx", "fp32-e8.onnx"}


# --- embeddings ---------------------------------------------------------------------------------------------


def test_int8_tables_save_three_quarters_of_the_tables(whole: Path) -> None:
    import onnx as library

    wide, narrow = onnx.graph(whole, FP32), onnx.graph(whole, FP32 | {"embeddings": "int8"})
    before, initializers = (library.load(path).graph.initializer for path in (wide, narrow))
    saved = sum(t.ByteSize() for t in before) - sum(t.ByteSize() for t in initializers)
    tables = 4 * (VOCABULARY + POSITIONS) * HIDDEN
    assert saved == pytest.approx(0.75 * tables, rel=0.05)  # scales take 1 number a row
    assert wide.stat().st_size - narrow.stat().st_size > 0.7 * tables
    whole_numbers = [t for t in initializers if t.data_type == library.TensorProto.INT8]
    assert {tuple(t.dims) for t in whole_numbers} >= {(VOCABULARY, HIDDEN), (POSITIONS, HIDDEN)}
    assert not [t for t in initializers if t.data_type == 1 and tuple(t.dims) == (VOCABULARY, HIDDEN)]


@pytest.mark.parametrize("precision", ["fp32", *INTEGER])
def test_int8_tables_go_with_every_precision(precision: str, whole: Path) -> None:
    plain, plan = {"precision": precision}, {"precision": precision, "embeddings": "int8"}
    before, after = run(whole, plain), run(whole, plan)
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()
    assert onnx.graph(whole, plan).stat().st_size < onnx.graph(whole, plain).stat().st_size


def test_a_row_of_a_table_is_rounded_by_its_own_scale() -> None:
    table = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32) * np.logspace(-3, 3, 50)[:, None]
    table = np.concatenate([table, np.zeros((1, 16))]).astype(np.float32)
    numbers, scales = quantise.rows_to_int8(table)
    assert numbers.dtype == np.int8 and numbers.shape == table.shape and scales.shape == (51, 1)
    assert (np.abs(numbers * scales - table) <= scales / 2 * 1.001).all()
    assert (np.abs(numbers[:-1]).max(1) == 127).all()


@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_a_runtime_without_a_kernel_for_int8_tables_says_so(runtime: str, whole: Path) -> None:
    if registry.runtime_named(runtime).missing(CPU):
        pytest.skip("not here")
    with pytest.raises(Infeasible, match=rf"bits\.embeddings: {runtime} has no kernel"):
        registry.runtime_named(runtime).open(whole, FP32 | {"embeddings": "int8"}, CPU)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        ({"precision": "fp32"}, "fp32"),
        ({"precision": "bf16"}, "bf16"),
        ({"precision": "int8", "fp32_blocks": 2}, "int8-w2"),
        ({"precision": "int8-static", "embeddings": "int8"}, "int8-static-e8"),
        ({"precision": "int8", "fp32_blocks": 2, "embeddings": "int8"}, "int8-w2-e8"),
        ({"precision": "int4", "fp32_blocks": 2, "embeddings": "int8"}, "int4-w2-e8"),
    ],
)
def test_a_graph_s_name_tells_its_plan(plan: Plan, name: str) -> None:
    for runtime in ("onnx", "openvino"):
        assert registry.runtime_named(runtime).files(plan) == (f"onnx/{name}.onnx",)


# --- OpenVINO -----------------------------------------------------------------------------------------------


@openvino
@pytest.mark.parametrize("extra", [{}, {"fp32_blocks": 1}, {"embeddings": "int8"}], ids=str)
def test_openvino_reads_the_calibrated_graph(extra: Plan, whole: Path) -> None:
    plan = {"precision": "int8-static"} | extra
    ours, theirs = run(whole, plan), run(whole, plan, "openvino")
    error = np.abs(ours - run(whole, FP32)).mean()
    assert np.abs(ours - theirs).mean() < max(error, 1e-3), "nearer to the same integers than to fp32"


def products_in_openvino(graph: Path, precision: str) -> list[str]:
    """The precision that each matrix product of the compiled model says it runs in."""
    import openvino as library

    core = library.Core()
    compiled = core.compile_model(core.read_model(str(graph)), "CPU", compile_options(CPU, precision))
    nodes = compiled.get_runtime_model().get_ordered_ops()
    info = [{k: str(v.astype(str)) for k, v in node.get_rt_info().items()} for node in nodes]
    return [i["runtimePrecision"] for i in info if i.get("layerType") == "FullyConnected"]


@openvino
def test_openvino_multiplies_integers(whole: Path) -> None:
    products = products_in_openvino(onnx.graph(whole, {"precision": "int8-static"}), "int8-static")
    linears = sum(isinstance(m, nn.Linear) for m in build.load_model(whole).modules())
    integers = [precision for precision in products if precision in ("u8", "i8")]
    assert len(products) == linears and len(integers) >= linears - 1, products


@openvino
@pytest.mark.skipif(not has_bf16("cpu"), reason="needs a CPU with bf16 instructions")
@pytest.mark.parametrize("extra", [{}, {"embeddings": "int8"}], ids=str)
def test_openvino_multiplies_bf16_and_stays_near_fp32(extra: Plan, whole: Path) -> None:
    plan = {"precision": "bf16"} | extra
    exact = run(whole, FP32, "openvino")
    error = np.abs(run(whole, plan, "openvino") - exact).mean() / np.abs(exact).mean()
    assert 0 < error < 0.03
    assert set(products_in_openvino(onnx.graph(whole, plan), "bf16")) == {"bf16"}


def test_a_graph_in_bf16_is_half_as_large_and_gives_rounded_weights(whole: Path) -> None:
    """ONNX Runtime converts the weights back and computes in fp32, so only their rounding is seen."""
    plan, whole_graph = {"precision": "bf16"}, onnx.graph(whole, FP32)
    rounded = onnx.graph(whole, plan)
    assert rounded.stat().st_size < 0.75 * whole_graph.stat().st_size
    predict, exact = onnx.OnnxPredict(rounded, CPU, onnx.CPU), run(whole, FP32)
    error = np.abs(np.concatenate([predict(batch)["logits"] for batch in BATCHES]) - exact).mean()
    assert 0 < error / np.abs(exact).mean() < 0.03
    with pytest.raises(Infeasible, match="onnx has no bf16 kernels"):
        build.open_predict(whole, "onnx", plan, CPU)
