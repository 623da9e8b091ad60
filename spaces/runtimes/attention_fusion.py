"""Attention as one operator of ONNX Runtime, by onnxscript's fusions of exported graphs."""

from __future__ import annotations

from typing import Any

#: The domain of onnxscript's own operators between two fusions. No runtime has them.
BETWEEN_FUSIONS = "ai.onnxruntime._fusion"


def fuse_attention(model: Any) -> bool:
    """Replace the operators of every attention by `com.microsoft.MultiHeadAttention`, in place.

    `model` is an `onnx_ir.Model` as torch exports it. An attention that matches no pattern (one with biases of
    relative positions between query and key, say) stays as it is. Matrices with weights are not touched, so that they
    can still be quantised: that is why not all of onnxscript's fusions are applied.

    Returns False where a fusion began and did not end: no runtime can run the graph then.
    """
    import onnx_ir.passes.common as passes
    from onnxscript.optimizer import optimize
    from onnxscript.rewriter.ort_fusions import sdpa_via_mha, shape_optimization
    from onnxscript.rewriter.ort_fusions.mha import fuse_mha1, fuse_mha2
    from onnxscript.rewriter.ort_fusions.mha_scale import fuse_mha_scale
    from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa

    # The patterns need shapes, and heads that are counted by constants.
    passes.ShapeInferencePass()(model)
    optimize(model)
    shape_optimization.rules.apply_to_model(model)
    optimize(model)
    passes.CommonSubexpressionEliminationPass()(model)
    fuse_sdpa(model, apply_shape_inference=True)
    fuse_mha1(model)
    fuse_mha2(model)
    fuse_mha_scale(model)
    sdpa_via_mha.replace_sdpa_by_mha(model)  # others, such as one with rotary positions: with its transpositions
    optimize(model)
    return all(node.domain != BETWEEN_FUSIONS for node in model.graph)
