"""Attention as one operator of ONNX Runtime, by onnxscript's fusions of exported graphs."""

from __future__ import annotations

from typing import Any


def fuse_attention(model: Any) -> int:
    """Replace the operators of every attention by `com.microsoft.MultiHeadAttention`, in place; returns how many.

    `model` is an `onnx_ir.Model` as torch exports it. An attention that matches no pattern (one with biases of
    relative positions between query and key, say) stays as it is. Matrices with weights are not touched, so that they
    can still be quantised: that is why not all of onnxscript's fusions are applied.
    """
    import onnx_ir.passes.common as passes
    from onnxscript.optimizer import optimize
    from onnxscript.rewriter.ort_fusions import shape_optimization
    from onnxscript.rewriter.ort_fusions.mha import fuse_mha1, fuse_mha2
    from onnxscript.rewriter.ort_fusions.mha_scale import fuse_mha_scale
    from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa
    from onnxscript.rewriter.ort_fusions.sdpa_via_mha import replace_sdpa_by_mha

    # The patterns need shapes, and heads that are counted by constants.
    passes.ShapeInferencePass()(model)
    optimize(model)
    shape_optimization.rules.apply_to_model(model)
    optimize(model)
    passes.CommonSubexpressionEliminationPass()(model)
    fuse_sdpa(model, apply_shape_inference=True)
    fused = int(fuse_mha1(model)) + int(fuse_mha2(model))
    fuse_mha_scale(model)
    fused += int(replace_sdpa_by_mha(model))  # others, such as one with rotary positions: with its transpositions
    optimize(model)
    return fused
