"""Four bits by groups: fitted scales and zero points, what the kernel multiplies by, shared weights once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spaces import registry
from spaces.runtime import Context
from spaces.runtimes import quantise

pytestmark = pytest.mark.skipif(
    registry.runtime_named("onnx").missing(Context()) is not None, reason="needs ONNX Runtime"
)


def heavy(inputs: int, outputs: int, seed: int = 0) -> np.ndarray:
    """A matrix (in, out) with the outliers of a trained one: Student's t, and columns of unlike sizes."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, (inputs, outputs)) * rng.lognormal(-3, 0.5, outputs)).astype(np.float32)


def grouped(weight: np.ndarray) -> np.ndarray:
    """(out, groups, 32) of a matrix (in, out) whose groups are full."""
    return weight.T.reshape(weight.shape[1], -1, quantise.WEIGHT_GROUP)


def squares_lost(weight: np.ndarray) -> np.ndarray:
    """(out, groups) of what `groups_to_int4` makes."""
    numbers, scales, zeros = (part.astype(np.float64) for part in quantise.groups_to_int4(weight))
    return ((scales[..., None] * (numbers - zeros[..., None]) - grouped(weight)) ** 2).sum(-1)


def multiplied(weights: dict[str, np.ndarray], order: tuple[str, ...], path: Path) -> Path:
    """A graph of x (rows, in) whose outputs are its products with these weights."""
    import onnx as library
    from onnx import helper

    kind = library.TensorProto.FLOAT
    names = [f"product{i}" for i in range(len(order))]
    nodes = [helper.make_node("MatMul", ["x", w], [n], name=n) for w, n in zip(order, names, strict=True)]
    x = helper.make_tensor_value_info("x", kind, ["rows", weights[order[0]].shape[0]])
    outputs = [
        helper.make_tensor_value_info(n, kind, ["rows", weights[order[i]].shape[1]]) for i, n in enumerate(names)
    ]
    constants = [library.numpy_helper.from_array(w, name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "products", [x], outputs, constants)
    library.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_no_group_of_int4_is_farther_than_rounded_to_nearest() -> None:
    weight = heavy(256, 24)
    groups = grouped(weight).astype(np.float64)
    low, high = np.minimum(groups.min(-1, keepdims=True), 0), np.maximum(groups.max(-1, keepdims=True), 0)
    scale = (high - low) / 15
    zero = np.rint(-low / scale)
    nearest = scale * (np.clip(np.rint(groups / scale + zero), 0, 15) - zero)
    rounded = ((nearest - groups) ** 2).sum(-1)
    lost = squares_lost(weight)
    assert (lost <= rounded * (1 + 1e-5)).all()
    assert lost.sum() < rounded.sum()


def test_int4_comes_near_to_the_best_of_all_scales_and_zero_points() -> None:
    weight = heavy(128, 48)
    groups = grouped(weight).astype(np.float64)
    best = np.full(groups.shape[:2], np.inf)
    for share in np.linspace(0.4, 1.2, 161):
        scale = share * np.ptp(groups, axis=-1, keepdims=True) / 15
        for zero in range(16):
            candidate = scale * (np.clip(np.rint(groups / scale + zero), 0, 15) - zero)
            best = np.minimum(best, ((candidate - groups) ** 2).sum(-1))
    assert squares_lost(weight).sum() < 1.05 * best.sum()  # rounding to nearest loses about a tenth more than the best


def test_weights_that_four_bits_can_say_come_back() -> None:
    numbers = np.random.default_rng(0).permuted(np.tile(np.arange(16), (5, 2)), axis=1)
    weight = (0.25 * (numbers - np.array([0, 3, 7, 15, 9])[:, None])).T.astype(np.float32)
    codes, scales, zeros = quantise.groups_to_int4(weight)
    np.testing.assert_allclose(scales[..., None] * (codes.astype(int) - zeros[..., None]), grouped(weight), atol=1e-6)


def test_int4_of_a_matrix_twice_as_large_has_scales_twice_as_large() -> None:
    weight = heavy(96, 8)
    once, twice = quantise.groups_to_int4(weight), quantise.groups_to_int4(2 * weight)
    np.testing.assert_array_equal(once[0], twice[0])
    np.testing.assert_array_equal(2 * once[1], twice[1])
    np.testing.assert_array_equal(once[2], twice[2])


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 8), (96, 7), (45, 5), (20, 3)])
def test_the_kernel_multiplies_by_what_the_groups_say(inputs: int, outputs: int, tmp_path: Path) -> None:
    """Also where the last group is not full, their number is odd, or a group is all zeros or a constant."""
    weight = heavy(inputs, outputs)
    weight[:, 0], weight[:, 1], weight[:, 2] = 0, 0.5, -0.5
    path = tmp_path / "int4.onnx"
    quantise.four_bits(multiplied({"w": weight}, ("w",), tmp_path / "fp32.onnx"), path, [])
    numbers, scales, zeros = quantise.groups_to_int4(weight)
    meant = (scales[..., None] * (numbers.astype(np.float32) - zeros[..., None])).reshape(outputs, -1)[:, :inputs].T
    np.testing.assert_allclose(meant[:, :3], weight[:, :3], atol=1e-6)
    for rows in (1, 6):
        x = np.random.default_rng(1).normal(size=(rows, inputs)).astype(np.float32)
        np.testing.assert_allclose(session(path).run(None, {"x": x})[0], x @ meant, atol=1e-5)


def test_int4_stores_shared_weights_once_and_keeps_what_is_spared(tmp_path: Path) -> None:
    import onnx as library

    weights = {"a": heavy(64, 8, seed=0), "b": heavy(64, 8, seed=1)}
    source = multiplied(weights, ("a", "a", "b", "b"), tmp_path / "fp32.onnx")
    quantise.four_bits(source, tmp_path / "int4.onnx", ["product3"])
    graph = library.load(tmp_path / "int4.onnx").graph
    assert [node.op_type for node in graph.node] == ["MatMulNBits"] * 3 + ["MatMul"]
    names = [tensor.name for tensor in graph.initializer]
    assert len(names) == len(set(names)) == 3 + 3 + 1 and "b" in names and "a" not in names
    x = np.random.default_rng(2).normal(size=(3, 64)).astype(np.float32)
    first, second, _, spared = session(tmp_path / "int4.onnx").run(None, {"x": x})
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(spared, x @ weights["b"], atol=1e-5)
