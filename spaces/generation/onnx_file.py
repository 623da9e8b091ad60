"""An ONNX graph written node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaces.errors import Infeasible

CONTRIBUTED = "com.microsoft"  # the domain of ONNX Runtime's own operators
OPSETS = {"": 20, CONTRIBUTED: 1}
IR_VERSION = 10
ABOUT = "decoder"  # the metadata key of a graph's facts (`DecoderGraph.about`)
LIMIT = 2**31  # bytes of a file in ONNX's format


class Graph:
    """An ONNX graph under construction: nodes in order, values by name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: type[np.generic], shape: Sequence[str | int]) -> str:
        """Declare an input of the graph, with names for its open sizes; returns its name."""
        self._inputs.append(_value(name, kind, shape))
        return name

    def output(self, value: str, name: str, kind: type[np.generic], shape: Sequence[str | int]) -> None:
        """`value` leaves the graph under `name`."""
        if value != name:
            self.node("Identity", [value], [name])
        self._outputs.append(_value(name, kind, shape))

    def constant(self, name: str, make: Callable[[], np.ndarray]) -> str:
        """A weight of the graph, which `make` gives when the name is first used; returns its name."""
        if name not in self._constants:
            from onnx import numpy_helper

            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(make()), name)
        return name

    def small(self, values: Any, kind: type[np.generic] = np.int64) -> str:
        """A constant of a few numbers; returns its name."""
        from onnx import numpy_helper

        array = np.asarray(values, kind)
        name = f"small.{np.dtype(kind)}.{array.shape}.{array.tobytes().hex()}"
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        output = f"{kind}.{len(self._nodes)}"
        self.node(kind, inputs, [output], domain, **attributes)
        return output

    def node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> None:
        """Append a node; an omitted input or output is ""."""
        from onnx import helper

        name = f"{kind}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))

    def save(self, path: Path, about: Mapping[str, str]) -> None:
        """Write the graph with `about` as its metadata. Raises Infeasible above 2 GB, the limit of an ONNX file."""
        from onnx import helper

        graph = helper.make_graph(self._nodes, "decoder", self._inputs, self._outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        helper.set_model_props(model, dict(about))
        size = model.ByteSize()
        if size >= LIMIT:
            raise Infeasible(f"an ONNX file holds at most 2 GB, and the graph with its weights has {size / 1e9:.1f}")
        path.write_bytes(model.SerializeToString())


def _value(name: str, kind: type[np.generic], shape: Sequence[str | int]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
