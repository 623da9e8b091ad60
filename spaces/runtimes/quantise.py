"""Forms of an exported ONNX graph in fewer bits: each function reads one graph and writes another.

A matrix here is a product with a constant; products of activations stay in floating point.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaces.errors import Infeasible
from spaces.weight_groups import WEIGHT_GROUP, groups_to_int4, pairs

#: Signed (unsigned ones take kernels half as fast where there is VNNI), a scale a channel, and within [-64, 64]: a CPU
#: without VNNI adds two products in 16 bits before it widens them, and 2 * 255 * 64 still fits. So nothing saturates,
#: wherever the graph is run.
WEIGHT_OPTIONS = {"per_channel": True, "reduce_range": True}
#: Where the exporter writes the modules that a node came from, outermost first.
SCOPES = "pkg.torch.onnx.name_scopes"
NBITS = "com.microsoft"  # the domain of MatMulNBits, the operator of int4

#: (source graph, graph to write, names of the matrices that stay as they are)
Lower = Callable[[Path, Path, Sequence[str]], None]


def spared(source: Path, blocks: Sequence[str], fp32_blocks: int) -> list[str]:
    """The matrices that stay fp32: those of the first `fp32_blocks` of `blocks`, and what is in none of them (a head).

    `blocks` are module paths, the most sensitive first. Raises Infeasible where there are fewer blocks.
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
    """Integer products: weights as in `WEIGHT_OPTIONS`, activations with one scale per tensor, computed at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(target),
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        **WEIGHT_OPTIONS,
        # A Gemm becomes a MatMul of this name before the quantiser looks at it.
        nodes_to_exclude=[*keep, *(f"{name}_MatMul" for name in keep)],
        extra_options={"MatMulConstBOnly": True},
    )


def static(source: Path, target: Path, keep: Sequence[str], rows: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Integer products with fixed scales, calibrated to the range of each matrix's inputs over `rows`.

    Only the inputs of matrices are rounded; a product ends in floating point. Rounding outputs too made the error of
    MiniLM's logits four times as large and no call faster. Ranges go from the smallest to the largest value: clipping
    0.01 % of the values (or more) made the error larger, and entropy calibration chose the whole range as well.
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
        **WEIGHT_OPTIONS,
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
    """Weights of 4 bits with a scale and a zero point per group of 32 inputs (`groups_to_int4`); products in fp32.

    A head over one row per text (a Gemm) stays fp32, because the kernel replaces MatMul only.
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
            for part, values in zip(parts, (pairs(numbers), scales, pairs(zeros)), strict=True):
                graph.initializer.append(numpy_helper.from_array(values, part))
            quantised.add(name)
        # The same node, which so keeps its name and where it came from.
        node.op_type, node.domain = "MatMulNBits", NBITS
        node.input[1:] = parts
        sizes = {"K": inputs, "N": outputs, "bits": 4, "block_size": WEIGHT_GROUP}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sizes.items())
    if NBITS not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(NBITS, 1))
    _drop_unread(graph)
    onnx.save(model, target)


def bfloat16(source: Path, target: Path) -> None:
    """Matrices and tables stored in bf16, and converted to fp32 where they are read: half the file. All else is fp32.

    Only a compiler that computes in bf16 runs it faster: it removes the conversions.
    """
    import onnx
    import torch
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    read = {node.input[1] for node in matrices(graph)} | {n.input[0] for n in graph.node if n.op_type == "Gather"}
    floats = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]
    conversions = []
    for tensor in [t for t in floats if t.name in read]:
        numbers = torch.from_numpy(numpy_helper.to_array(tensor).copy()).bfloat16().view(torch.int16).numpy()
        stored = f"{tensor.name}.bf16"
        graph.initializer.append(helper.make_tensor(stored, TensorProto.BFLOAT16, tensor.dims, numbers.tobytes(), True))
        conversions.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
        graph.initializer.remove(tensor)
    nodes = [*conversions, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target)


def tables(source: Path, target: Path) -> None:
    """Embedding tables as int8 with a scale per row: rows are gathered in int8 and then converted to floats.

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
