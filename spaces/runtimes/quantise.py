"""Integer forms of an exported ONNX graph: each function reads one graph and writes another.

A matrix here is a product with a constant; products of activations stay in floating point.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaces.errors import Infeasible

GROUP = 32  # weights that share a scale in int4
#: Shares of a group's range that its scale in int4 is sought from, and least-squares steps from each. From the whole
#: range alone more steps end at a larger error; twice as many shares make it 0.2 % smaller.
RANGES, STEPS = (1.05, 1.0, 0.95, 0.9, 0.85, 0.8), 2
#: Signed (unsigned ones take kernels half as fast where there is VNNI), a scale a channel, and within [-64, 64]: a CPU
#: without VNNI adds two products in 16 bits before it widens them, and 2 * 255 * 64 still fits. So nothing saturates,
#: wherever the graph is run.
WEIGHTS = {"per_channel": True, "reduce_range": True}
#: Where the exporter writes the modules that a node came from, outermost first.
SCOPES = "pkg.torch.onnx.name_scopes"
NBITS = "com.microsoft"  # the domain of MatMulNBits, the operator of int4

#: (source graph, graph to write, names of the matrices that stay as they are)
Lower = Callable[[Path, Path, Sequence[str]], None]


def spared(source: Path, blocks: Sequence[str], fp32_blocks: int) -> list[str]:
    """The matrices that stay fp32: those of the first `fp32_blocks` of `blocks`, and what is in none of them (a head).

    `blocks` are module paths, the most sensitive first. Raises Infeasible when there are not so many.
    """
    import onnx

    if fp32_blocks > len(blocks):
        raise Infeasible(f"bits.fp32_blocks must be at most the model's {len(blocks)} blocks, got {fp32_blocks}")
    narrow = set(blocks[fp32_blocks:])
    model = onnx.load(source, load_external_data=False)
    return [node.name for node in matrices(model.graph) if not narrow & set(_scopes(node))]


def matrices(graph: Any) -> Iterator[Any]:
    """Nodes that multiply by a constant of two dimensions."""
    flat = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return (node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in flat)


def _scopes(node: Any) -> tuple[str, ...]:
    written = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    return tuple(map(str, ast.literal_eval(written)))


def dynamic(source: Path, target: Path, keep: Sequence[str]) -> None:
    """Integer products: weights `WEIGHTS`, activations one scale a tensor as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(target),
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        **WEIGHTS,
        # A Gemm becomes a MatMul of this name before the quantiser looks at it.
        nodes_to_exclude=[*keep, *(f"{name}_MatMul" for name in keep)],
        extra_options={"MatMulConstBOnly": True},
    )


def static(source: Path, target: Path, keep: Sequence[str], rows: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Integer products with calibrated scales: the range of each matrix's inputs over `rows`, fixed.

    Only the inputs of matrices are rounded; a product ends in floating point. Rounding outputs too made the error of
    MiniLM's logits four times as large and no call faster. Ranges are from the least to the greatest value seen: to cut
    off 0.01 % of the values (or more) made the error larger, and entropy chose the whole range as well.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    graph = onnx.load(source, load_external_data=False).graph
    constant = {node.name for node in matrices(graph)}
    products = [node.name for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.name not in constant]
    quantize_static(
        str(source),
        str(target),
        _Rows(rows),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        **WEIGHTS,
        nodes_to_exclude=[*keep, *products],
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )


class _Rows:
    """Rows one after the other, as the calibrator asks for them."""

    def __init__(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self._rows, None)


def four_bits(source: Path, target: Path, keep: Sequence[str]) -> None:
    """Weights of 4 bits with a scale and a zero point a group of 32 inputs (`groups_to_int4`); products in fp32.

    A head that sees one row a text (a Gemm) stays as it is: the kernel is one of MatMul.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    floats = {tensor.name: tensor for tensor in graph.initializer}
    quantised = set()
    for node in [n for n in matrices(graph) if n.op_type == "MatMul" and n.name not in keep]:
        name = node.input[1]
        inputs, outputs = floats[name].dims
        parts = (f"{name}.int4", f"{name}.scale", f"{name}.zero")
        if name not in quantised:
            numbers, scales, zeros = groups_to_int4(numpy_helper.to_array(floats[name]))
            for part, values in zip(parts, (_pairs(numbers), scales, _pairs(zeros)), strict=True):
                graph.initializer.append(numpy_helper.from_array(values, part))
            quantised.add(name)
        # The same node, which so keeps its name and where it came from.
        node.op_type, node.domain = "MatMulNBits", NBITS
        node.input[1:] = parts
        sizes = {"K": inputs, "N": outputs, "bits": 4, "block_size": GROUP}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sizes.items())
    if NBITS not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(NBITS, 1))
    _drop_unread(graph)
    onnx.save(model, target)


def groups_to_int4(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(numbers (out, groups, 32), scales (out, groups), zeros (out, groups)) of `weight` (in, out).

    scale * (number - zero) is near the weight; numbers and zeros are whole, 0 to 15, and a last group that is not full
    ends in zeros. For given numbers the best scale, and then the best zero point, has a closed form: the alternation of
    HQQ (Badri & Shaji 2023) with whole zero points, from several ranges (`RANGES`). What has the least squared error
    stays, and rounding to nearest over the whole range is among it, so no group is worse than that.

    By hand: 4.7 % less error than ONNX Runtime's own quantizer at the same time of a call; its HQQ takes 2.4 times as
    long (`benchmarks/results/2026-11-30-int4-quantizer`).

    HQQ's norm below 1 in place of squares made neither error smaller.
    """
    inputs, outputs = weight.shape
    groups = np.pad(weight.T.astype(np.float32), ((0, 0), (0, -inputs % GROUP))).reshape(outputs, -1, GROUP)
    low, high = np.minimum(groups.min(-1), 0)[..., None], np.maximum(groups.max(-1), 0)[..., None]
    whole = np.where(high > low, (high - low) / 15, 1)
    zeros = np.rint(-low / whole)  # of any share of the range too
    best = (_nearest(groups, whole, zeros), whole, zeros)
    least = _lost(groups, *best)
    for share in RANGES:
        scale, zero = share * whole, zeros
        for _ in range(STEPS):
            steps = _nearest(groups, scale, zero) - zero
            squares = (steps**2).sum(-1, keepdims=True)
            fitted = (groups * steps).sum(-1, keepdims=True) / np.maximum(squares, 1)
            scale = np.where(fitted > 0, fitted, scale)  # a group of zeros has no scale of its own
            zero = np.clip(np.rint((_nearest(groups, scale, zero) - groups / scale).mean(-1, keepdims=True)), 0, 15)
            candidate = (_nearest(groups, scale, zero), scale, zero)
            lost = _lost(groups, *candidate)
            best = tuple(np.where(lost < least, new, old) for new, old in zip(candidate, best, strict=True))
            least = np.minimum(lost, least)
    numbers, scales, zeros = best
    return numbers.astype(np.uint8), scales[..., 0].astype(weight.dtype), zeros[..., 0].astype(np.uint8)


def _nearest(groups: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.clip(np.rint(groups / scale + zero), 0, 15)
    return rounded


def _lost(groups: np.ndarray, numbers: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Squared error a group (out, groups, 1)."""
    lost: np.ndarray = ((scale * (numbers - zero) - groups) ** 2).sum(-1, keepdims=True)
    return lost


def _pairs(numbers: np.ndarray) -> np.ndarray:
    """Numbers below 16 (..., n) two a byte (..., ceil(n / 2)), the first of two in the lower bits."""
    even = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, numbers.shape[-1] % 2)])
    packed: np.ndarray = even[..., ::2] | even[..., 1::2] << 4
    return packed


def tables(source: Path, target: Path) -> None:
    """Embedding tables as int8 with a scale a row: gathered in int8, and only the rows that are read become floats.

    Raises Infeasible for a graph that gathers from no table.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    floats = {t.name: t for t in graph.initializer if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)}
    gathers = [n for n in graph.node if n.op_type == "Gather" and len(getattr(floats.get(n.input[0]), "dims", ())) == 2]
    gathers = [n for n in gathers if all(a.i == 0 for a in n.attribute if a.name == "axis")]
    if not gathers:
        raise Infeasible("bits.embeddings: the exported graph gathers from no embedding table")
    for name in dict.fromkeys(node.input[0] for node in gathers):
        numbers, scales = rows_to_int8(numpy_helper.to_array(floats[name]))
        graph.initializer.append(numpy_helper.from_array(numbers, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scale"))
    outputs = {node.output[0] for node in gathers}
    nodes = []
    for node in graph.node:
        if node.output[0] not in outputs:
            nodes.append(node)
            continue
        table, indices, output = node.input[0], node.input[1], node.output[0]
        nodes += [
            helper.make_node("Gather", [f"{table}.int8", indices], [f"{output}.int8"]),
            helper.make_node("Gather", [f"{table}.scale", indices], [f"{output}.scale"]),
            helper.make_node("Cast", [f"{output}.int8"], [f"{output}.whole"], to=floats[table].data_type),
            helper.make_node("Mul", [f"{output}.whole", f"{output}.scale"], [output]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)
    onnx.save(model, target)


def _drop_unread(graph: Any) -> None:
    """Leaves only the constants that a node reads."""
    read = {name for node in graph.node for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def rows_to_int8(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(numbers int8, scales (rows, 1) in the table's type) with numbers * scales nearest to `table` (rows, width)."""
    scales = np.abs(table).max(1, keepdims=True).astype(np.float32) / 127
    scales[scales == 0] = 1
    return np.rint(table / scales).astype(np.int8), scales.astype(table.dtype)
