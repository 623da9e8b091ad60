"""The operators of a causal language model's ONNX graph, each as operators of OpenVINO.

Those of ONNX Runtime's own domain become patterns that OpenVINO's CPU compiler fuses: integers, their conversion, zero
points and scales before a product; attention over a state to which a step appends its keys and values in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spaces.generation.openvino_translation import Translation
from spaces.weight_groups import WEIGHT_GROUP, pairs

MASK = "mask"  # an input of the model that the ONNX graph does not have
#: (translation, node of the ONNX graph, its attributes) -> outputs
Operator = Callable[[Translation, Any, Mapping[str, Any]], list[Any]]


def _plain(make: Callable[..., Any]) -> Operator:
    """One that takes the inputs of the node and no attributes."""

    def translate(t: Translation, node: Any, _: Mapping[str, Any]) -> list[Any]:
        from openvino import opset13 as op

        return [make(op, *(t.value(name) for name in node.input))]

    return translate


def _split(t: Translation, node: Any, attributes: Mapping[str, Any]) -> list[Any]:
    from openvino import opset13 as op

    x, sizes = map(t.value, node.input)
    return list(op.variadic_split(x, op.constant(attributes["axis"]), sizes).outputs())


def _gather_elements(t: Translation, node: Any, attributes: Mapping[str, Any]) -> list[Any]:
    from openvino import opset13 as op

    return [op.gather_elements(*map(t.value, node.input), attributes["axis"])]


def _log_sum_exp(op: Any, x: Any, axes: Any) -> Any:
    largest = op.reduce_max(x, axes, keep_dims=True)
    return op.add(op.log(op.reduce_sum(op.exp(op.subtract(x, largest)), axes, keep_dims=True)), largest)


def _gemm(op: Any, x: Any, matrix: Any, bias: Any = None) -> Any:
    product = op.matmul(x, matrix, False, True)
    return product if bias is None else op.add(product, bias)


def _gelu(t: Translation, node: Any, attributes: Mapping[str, Any]) -> list[Any]:
    from openvino import opset13 as op

    return [op.gelu(t.value(node.input[0]), "TANH" if attributes["approximate"] == b"tanh" else "ERF")]


def _norm(t: Translation, node: Any, attributes: Mapping[str, Any]) -> list[Any]:
    """Of x, or of the sum of the first two inputs, which is then the last output."""
    from openvino import opset13 as op

    x, *rest = map(t.value, node.input)
    skipping = node.op_type.startswith("Skip")
    if skipping:
        x = op.add(x, rest.pop(0))
    axes, epsilon = _integers([-1]), attributes["epsilon"]
    if "Simplified" in node.op_type:
        mean = op.reduce_mean(op.power(x, op.constant(np.float32(2))), axes, keep_dims=True)
        root = op.sqrt(op.add(mean, op.constant(np.float32(epsilon))))
        normed = op.multiply(op.multiply(x, op.power(root, op.constant(np.float32(-1)))), rest[0])
    else:
        normed = op.multiply(op.mvn(x, axes, True, epsilon, "inside_sqrt"), rest[0])
    if len(rest) == 2:
        normed = op.add(normed, rest[1])
    return [normed, None, None, x] if skipping else [normed]


def _product_of_groups(t: Translation, node: Any, attributes: Mapping[str, Any]) -> list[Any]:
    from openvino import opset13 as op

    name, numbers, scales, zeros, _, bias = (*node.input, "", "", "")[:6]
    inputs, outputs, bits = (attributes[key] for key in ("K", "N", "bits"))
    scale = t.array(scales).reshape(outputs, -1, 1)
    matrix = op.multiply(_shifted(t, bits, outputs, numbers, zeros), op.constant(scale))
    x, beyond = t.value(name), -inputs % WEIGHT_GROUP
    if beyond:  # a last group that is not full ends in weights of 0
        before = [0] * len(x.get_output_partial_shape(0) if hasattr(x, "get_output_partial_shape") else x.partial_shape)
        x = op.pad(x, _integers(before), _integers([*before[1:], beyond]), "constant", op.constant(np.float32(0)))
    product = op.matmul(x, op.reshape(matrix, _integers([outputs, -1]), False), False, True)
    return [op.add(product, t.value(bias)) if bias else product]


def _shifted(t: Translation, bits: int, outputs: int, numbers: str, zeros: str) -> Any:
    """(outputs, groups, 32) float32: the numbers less their zero points."""
    from openvino import Shape
    from openvino import opset13 as op

    if bits == 8:  # all zero points are 128
        signed = (t.array(numbers) ^ np.uint8(128)).view(np.int8).reshape(outputs, -1, WEIGHT_GROUP)
        return op.convert(op.constant(signed), "f32")
    packed = t.array(numbers).reshape(outputs, -1, WEIGHT_GROUP // 2)
    groups = packed.shape[1]
    by_row = t.array(zeros).reshape(outputs, -1)  # two a byte, and each row a whole number of bytes
    both = np.stack([by_row & 15, by_row >> 4], -1).reshape(outputs, -1)[:, :groups]
    parts = ((packed, Shape([outputs, groups, WEIGHT_GROUP])), (pairs(both.reshape(-1)), Shape([outputs, groups, 1])))
    fours = [_four_bits(array, shape) for array, shape in parts]
    return op.subtract(*(op.convert(four, "f32") for four in fours))


def _four_bits(packed: np.ndarray, shape: Any) -> Any:
    """A constant of this shape from numbers two a byte, in memory of its own."""
    from openvino import Tensor, Type
    from openvino import opset13 as op

    tensor = Tensor(Type.u4, shape)
    tensor.data.reshape(-1)[:] = packed.reshape(-1)
    return op.constant(tensor)


def _integer_rows(t: Translation, node: Any, _: Mapping[str, Any]) -> list[Any]:
    """Rows of a table in 8 bits, whose zero points are 128."""
    from openvino import opset13 as op

    table, ids, scales = map(t.value, node.input)
    groups = t.array(node.input[2]).shape[1]
    numbers = op.subtract(op.convert(op.gather(table, ids, op.constant(0)), "f32"), op.constant(np.float32(128)))
    by_group = op.reshape(numbers, _integers([0, 0, groups, WEIGHT_GROUP]), True)
    scale = op.unsqueeze(op.gather(scales, ids, op.constant(0)), _integers([-1]))
    return [op.reshape(op.multiply(by_group, scale), _integers([0, 0, -1]), True)]


def _attention(t: Translation, node: Any, attributes: Mapping[str, Any]) -> list[Any]:
    from openvino import opset13 as op

    heads, keys = attributes["num_heads"], attributes["kv_num_heads"]
    width = t.value(node.input[3]).get_output_partial_shape(0)[3].get_length()
    if node.input[1]:
        parts = list(map(t.value, node.input[:3]))
    else:
        sizes = _integers([n * width for n in (heads, keys, keys)])
        parts = list(op.variadic_split(t.value(node.input[0]), op.constant(-1), sizes).outputs())
    shapes = [_integers([0, 0, n, width]) for n in (heads, keys, keys)]
    order = _integers([0, 2, 1, 3])
    query, key, value = (
        op.transpose(op.reshape(x, shape, True), order) for x, shape in zip(parts, shapes, strict=True)
    )
    if attributes.get("do_rotary"):
        query, key = _rotated(t, query, width), _rotated(t, key, width)
    key = _for_each_query(t.remembered(node.input[3], node.output[1], key), heads // keys, width)
    value = _for_each_query(t.remembered(node.input[4], node.output[2], value), heads // keys, width)
    window = attributes.get("local_window_size")
    mask = t.parameter(f"{MASK}.{window}" if window else MASK, np.float32, [-1, 1, -1, -1])
    scale = op.constant(np.float32(attributes["scale"]))
    attended = op.scaled_dot_product_attention(query, key, value, mask, scale, causal=False)
    return [op.reshape(op.transpose(attended, order), _integers([0, 0, heads * width]), True)]


def _rotated(t: Translation, x: Any, width: int) -> Any:
    from openvino import opset13 as op

    cos, sin = (t.parameter(name, np.float32, [-1, 1, -1, width]) for name in ("cos", "sin"))
    low, high = op.variadic_split(x, op.constant(3), _integers([width // 2] * 2)).outputs()
    turned = op.concat([op.multiply(high, op.constant(np.float32(-1))), low], -1)
    return op.add(op.multiply(x, cos), op.multiply(turned, sin))


def _for_each_query(x: Any, queries: int, width: int) -> Any:
    """Keys or values (B, heads, T, head_dim) once for each query head that shares them."""
    from openvino import opset13 as op

    if queries == 1:
        return x
    heads = x.get_output_partial_shape(0)[1].get_length()
    apart = op.unsqueeze(x, _integers([2]))
    repeated = op.broadcast(apart, _integers([1, 1, queries, 1, 1]), broadcast_spec="BIDIRECTIONAL")
    return op.reshape(repeated, _integers([0, heads * queries, -1, width]), True)


def _integers(values: Sequence[int]) -> Any:
    from openvino import opset13 as op

    return op.constant(np.array(values, np.int64))


#: By the name of the operator in ONNX.
OPERATORS: Mapping[str, Operator] = {
    "Add": _plain(lambda op, *x: op.add(*x)),
    "Gather": _plain(lambda op, *x: op.gather(*x, op.constant(0))),
    "GatherBlockQuantized": _integer_rows,
    "GatherElements": _gather_elements,
    "Gelu": _gelu,
    "Gemm": _plain(_gemm),
    "GroupQueryAttention": _attention,
    "Identity": _plain(lambda op, x: x),
    "LayerNormalization": _norm,
    "MatMul": _plain(lambda op, *x: op.matmul(*x, False, False)),
    "MatMulNBits": _product_of_groups,
    "Mul": _plain(lambda op, *x: op.multiply(*x)),
    "QuickGelu": _plain(lambda op, x: op.swish(x)),  # with a factor of 1
    "ReduceLogSumExp": _plain(_log_sum_exp),
    "Relu": _plain(lambda op, x: op.relu(x)),
    "Reshape": _plain(lambda op, *x: op.reshape(*x, True)),
    "SimplifiedLayerNormalization": _norm,
    "SkipLayerNormalization": _norm,
    "SkipSimplifiedLayerNormalization": _norm,
    "Split": _split,
    "Squeeze": _plain(lambda op, *x: op.squeeze(*x)),
    "Sub": _plain(lambda op, *x: op.subtract(*x)),
}
