"""The graph of a causal language model as an OpenVINO model whose state is the key-value cache.

It is translated node by node from the ONNX file that ONNX Runtime opens, so that one file has the weights of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spaces.generation.graph_facts import GraphFacts
from spaces.generation.openvino_operators import OPERATORS
from spaces.generation.openvino_translation import Translation


def stateful_model(path: Path, output: str) -> tuple[Any, GraphFacts]:
    """The stateful model with this output of the graph at `path`, and the graph's facts.

    Its inputs are those of the graph that the output needs, but for the sizes and buffers of GroupQueryAttention, and:

    - cos, sin (B, 1, L, head_dim) of each token's own position, both halves alike, in place of tables;
    - mask (B, 1, L, T), added to attention scores, and mask.W for blocks that see W tokens;
    - beam_idx (B,) int32, the row of the state that each row continues.
    """
    import onnx
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    stored = onnx.load(path)
    translation = Translation(stored.graph)
    translation.translate(output, OPERATORS)
    model = openvino.Model(translation.results, list(translation.parameters.values()), "decoder")
    apply_make_stateful_transformation(model, translation.states)
    _start_empty(model)
    return model, GraphFacts.of({entry.key: entry.value for entry in stored.metadata_props})


def _start_empty(model: Any) -> None:
    """Before the first call the state has as many rows as the call's input, and no tokens."""
    from openvino import opset13 as op

    sizes = op.shape_of(model.input("input_ids").get_node(), output_type="i64")
    rows = op.gather(sizes, op.constant([0]), op.constant(0))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            sizes_after = [size.get_length() if size.is_static else 0 for size in node.get_output_partial_shape(0)][1:]
            shape = op.concat([rows, op.constant(np.array(sizes_after, np.int64))], 0)
            node.set_arguments([op.broadcast(op.constant(np.float32(0)), shape)])
    model.validate_nodes_and_infer_types()
