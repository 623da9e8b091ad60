"""OpenVINO: the exported graph under Intel's CPU compiler."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from spaces.base import Base, is_causal, read_config
from spaces.bf16 import has_bf16
from spaces.generation.openvino_program import OPENVINO_CACHES, OpenVinoProgram, OpenVinoScores
from spaces.generation.program import CacheSettings, Program
from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes import causal_onnx, onnx
from spaces.runtimes.padding import PREPARED_LENGTHS, lengths_of, padded, padded_length, padding_token
from spaces.runtimes.requirements import require

#: The first release that reads `com.microsoft.MultiHeadAttention` of a graph.
OLDEST = (2026, 3)


class OpenVino(onnx.FromGraph):
    """The ONNX graph in fp32 or bf16, or with calibrated int8 scales in it, compiled for the CPU with the latency hint.

    That of a causal language model in fp32, or with int8 or int4 weights by groups: the file that `onnx` opens too.
    """

    name = "openvino"
    source = "OpenVINO"
    install = 'pip install "transformer-compression-search[openvino]"'

    def missing(self, context: Context) -> str | None:
        if context.device != "cpu":
            return "OpenVINO runs on CPUs here"
        if importlib.util.find_spec("openvino") is None:
            return f"openvino not installed: {self.install}"
        with contextlib.suppress(metadata.PackageNotFoundError):  # a build of one's own has no metadata
            installed = metadata.version("openvino")
            if tuple(map(int, installed.split(".")[:2])) < OLDEST:
                return f"openvino {installed} is older than {'.'.join(map(str, OLDEST))}: {self.install}"
        return onnx.Onnx().missing(context)

    def precisions(self, context: Context) -> tuple[str, ...]:
        return ("fp32", *(("bf16",) if has_bf16("cpu") else ()), "int8-static")

    def generating_precisions(self, context: Context) -> tuple[str, ...]:
        return causal_onnx.CAUSAL_GRAPH_PRECISIONS

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        if is_causal(folder):
            return OpenVinoScores(self._graph(folder, plan, context), compile_options(context))
        require(self, plan, context, "here")
        causal_onnx.refuse_others(plan)
        options = compile_options(context, str(plan["precision"]))
        return OpenVinoPredict(onnx.graph(folder, plan), options, read_config(folder)[0])

    def cache_kinds(self, context: Context) -> tuple[str, ...]:
        return OPENVINO_CACHES

    def open_program(self, folder: Path, plan: Plan, settings: CacheSettings, context: Context) -> Program:
        return OpenVinoProgram(self._graph(folder, plan, context), compile_options(context))

    def _graph(self, folder: Path, plan: Plan, context: Context) -> Path:
        """That of a causal language model."""
        require(self, plan, context, "here", self.generating_precisions(context))
        return causal_onnx.causal_graph(folder, plan, folder / onnx.file_of(plan), context)


def compile_options(context: Context, precision: str = "fp32") -> dict[str, Any]:
    """The options of a model that is compiled to answer single calls as fast as it can.

    What is not in integers is computed in float32, in "bf16" in that.
    """
    hint = "bf16" if precision == "bf16" else "f32"
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    return options | ({"INFERENCE_NUM_THREADS": context.threads} if context.threads else {})


class OpenVinoPredict:
    """One compiled model and one inference request, reused; calls from several threads run one after the other.

    OpenVINO prepares its kernels for each shape of the input that it has not met, and keeps them: milliseconds and half
    a megabyte for MiniLM, and texts have hundreds of lengths. Rows of the model `base` are padded to few lengths;
    without it they stay as they are.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], base: Base | None = None) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(path))
        # Compiling gives an output the names of removed operations too, of which any could be taken for its own.
        self._inputs = [i.get_any_name() for i in model.inputs]
        self._outputs = [o.get_any_name() for o in model.outputs]
        self._request = core.compile_model(model, "CPU", dict(options)).create_infer_request()
        self._alone = threading.Lock()
        self.lengths = () if base is None else lengths_of(base, PREPARED_LENGTHS)
        self._pad = 0 if base is None else padding_token(base)
        self._per_token = base is not None and base.per_token

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        length = batch[self._inputs[0]].shape[1]
        arrays = padded(batch, self._inputs, padded_length(length, self.lengths), self._pad)
        with self._alone:
            result = self._request.infer(arrays)
            # Copies: the request keeps its buffers.
            return {n: np.array(result[n][:, :length] if self._per_token else result[n]) for n in self._outputs}
