"""Nodes of an ONNX graph translated into operators of OpenVINO: their values by name, inputs, results and state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

BEAM = "beam_idx"  # an input of the model that the ONNX graph does not have


class Translation:
    """Turns nodes of an ONNX graph into operators of OpenVINO."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = {value.name: value for value in graph.input}
        self._values: dict[str, Any] = {}
        self.parameters: dict[str, Any] = {}
        self.results: list[Any] = []
        #: The name of the result that becomes the state, by that of its parameter.
        self.states: dict[str, str] = {}

    def translate(
        self, output: str, operators: Mapping[str, Callable[[Translation, Any, Mapping[str, Any]], list[Any]]]
    ) -> None:
        """Translate what `output` needs, each node by the operator of its type, and make it the first result."""
        from openvino import opset13 as op

        needed, nodes = {output}, []
        for node in reversed(self._graph.node):
            if needed & set(node.output):
                needed |= set(node.input)
                nodes.append(node)
        results: list[Any] = []
        for node in reversed(nodes):
            outputs = operators[node.op_type](self, node, _attributes(node))
            self._values.update(zip(node.output, outputs, strict=False))
        results.append(_named(op.result(self._values[output]), output))
        self.results[:0] = results

    def value(self, name: str) -> Any:
        """The operator's output, input or constant of this name in the graph."""
        from openvino import opset13 as op

        if name not in self._values:
            if name in self._tensors:
                self._values[name] = op.constant(self.array(name))
            else:
                self._values[name] = self._input(name)
        return self._values[name]

    def array(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        array: np.ndarray = numpy_helper.to_array(self._tensors[name])
        return array

    def parameter(self, name: str, kind: Any, shape: Sequence[int]) -> Any:
        """An input of the model, made when it is first asked for; sizes of -1 are open."""
        from openvino import PartialShape
        from openvino import opset13 as op

        if name not in self.parameters:
            self.parameters[name] = _named(op.parameter(PartialShape(list(shape)), dtype=kind), name)
        return self.parameters[name]

    def _input(self, name: str) -> Any:
        from onnx import helper

        tensor = self._inputs[name].type.tensor_type
        shape = [size.dim_value or -1 for size in tensor.shape.dim]
        return self.parameter(name, helper.tensor_dtype_to_np_dtype(tensor.elem_type).type, shape)

    def remembered(self, past: str, present: str, new: Any) -> Any:
        """The state (B, heads, T, head_dim) after `new` (B, heads, L, head_dim) is appended to it."""
        from openvino import opset13 as op

        before = op.gather(self._input(past), self.parameter(BEAM, np.int32, [-1]), op.constant(0))
        grown = op.concat([before, new], 2)
        self.results.append(_named(op.result(grown), present))
        self.states[past] = present
        return grown


def _named(node: Any, name: str) -> Any:
    node.set_friendly_name(name)
    node.output(0).get_tensor().set_names({name})
    return node


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
