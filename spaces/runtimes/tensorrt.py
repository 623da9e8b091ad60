"""TensorRT through ONNX Runtime: the exported graph as engines that NVIDIA's builder timed on this GPU.

This has not run on a GPU yet. It follows ONNX Runtime's "TensorRT Execution Provider"; tests cover what needs no GPU.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes import onnx
from spaces.runtimes.requirements import require
from spaces.runtimes.seal import private_folder

PROVIDER = "TensorrtExecutionProvider"
TENSORRT_INSTALL = "pip install onnxruntime-gpu tensorrt"


class TensorRt(onnx.FromGraph):
    """fp32 (which TensorRT may multiply in TF32) or fp16; operators that it does not support run on the CUDA provider.

    Engines are built when a session first meets a shape, which takes from seconds to minutes, and are kept in this
    user's own cache folder for the next session: an engine is a program for one kind of GPU, so it is not exported, and
    nobody else's is opened.
    """

    name = "tensorrt"
    fused = False  # TensorRT has no such operator: it fuses attention by itself
    source = "NVIDIA TensorRT through ONNX Runtime"
    install = TENSORRT_INSTALL

    def missing(self, context: Context) -> str | None:
        if context.device != "cuda":
            return f"TensorRT needs a CUDA device, and: {TENSORRT_INSTALL}"
        absent = onnx.absent()
        if absent:
            return f"{', '.join(absent)} not installed: {TENSORRT_INSTALL} onnx onnxscript"
        if PROVIDER not in onnx.providers():
            return f"this onnxruntime has no TensorRT provider: {TENSORRT_INSTALL}"
        return None

    def precisions(self, context: Context) -> tuple[str, ...]:
        return ("fp32", "fp16")

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        require(self, plan, context)
        if "embeddings" in plan:
            raise Infeasible("bits.embeddings: tensorrt does not support integer tables")
        with contextlib.suppress(ImportError):  # puts the libraries of the pip package where the provider finds them
            importlib.import_module("tensorrt")
        path = onnx.graph(folder, plan, self.fused)
        settings = options(path, str(plan["precision"]))
        return onnx.OnnxPredict(path, context, [(PROVIDER, settings), ("CUDAExecutionProvider", {})])


def options(path: Path, precision: str) -> dict[str, Any]:
    """The provider's options for the graph at `path`; creates the folder for its engines."""
    engines = private_folder(f"tensorrt {path.resolve()}")
    return {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(engines),
        "trt_fp16_enable": precision == "fp16",
    }
