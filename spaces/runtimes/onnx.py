"""ONNX Runtime: the exported graph under its own optimiser and kernels."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.axis import Context, Infeasible, Plan, Predict

if TYPE_CHECKING:
    from spaces.base import TaskModel

FOLDER = "onnx"


class Onnx:
    """fp32 (fp16 on CUDA) as exported; int8 as dynamic quantisation to integer matrix products."""

    name = "onnx"
    source = "ONNX Runtime"
    install = 'pip install "transformer-compression-search[onnx]"'

    def missing(self, context: Context) -> str | None:
        lacking = absent()
        if lacking:
            return f"{', '.join(lacking)} not installed: {self.install}"
        if context.device == "cuda" and "CUDAExecutionProvider" not in providers():
            return "this onnxruntime has no CUDA provider: pip install onnxruntime-gpu"
        return None

    def widths(self, context: Context) -> tuple[str, ...]:
        return ("fp32", "fp16") if context.device == "cuda" else ("fp32", "int8")

    def files(self, plan: Plan) -> tuple[str, ...]:
        return (f"{FOLDER}/{plan['width']}.onnx",)

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        why = self.missing(context)
        if why:
            raise Infeasible(why)
        width = str(plan["width"])
        if width not in self.widths(context):
            raise Infeasible(f"onnx has no {width} kernels on this {context.device}")
        provider = "CUDAExecutionProvider" if context.device == "cuda" else "CPUExecutionProvider"
        return OnnxPredict(graph(folder, width), context, [(provider, {})])


def absent() -> list[str]:
    """The packages that are not here."""
    return [p for p in ("onnxruntime", "onnx", "onnxscript") if importlib.util.find_spec(p) is None]


def providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


class OnnxPredict:
    """One session. Its threads spin only while it runs, so that an idle session takes no CPU."""

    def __init__(self, path: Path, context: Context, wanted: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """`wanted`: execution providers with their options; the first must be taken, later ones may fill its gaps."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = context.threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        given = [(name, dict(chosen)) for name, chosen in wanted]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=given)
        if self._session.get_providers()[0] != given[0][0]:
            raise Infeasible(f"ONNX Runtime did not take the {given[0][0]}")
        self._inputs = [i.name for i in self._session.get_inputs()]
        self._outputs = [o.name for o in self._session.get_outputs()]

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = self._session.run(self._outputs, {name: batch[name] for name in self._inputs})
        return dict(zip(self._outputs, values, strict=True))


def graph(folder: Path, width: str) -> Path:
    """The ONNX file of the model in `folder` at this width; made at the first call, found at the next."""
    path = folder / FOLDER / f"{width}.onnx"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            if width == "int8":
                _quantise(graph(folder, "fp32"), partial)
            else:
                _export(folder, partial, width)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _export(folder: Path, path: Path, width: str) -> None:
    """The graph with batch and length left open."""
    import torch

    from spaces import build
    from spaces.base import read_config

    model: TaskModel = build.load(folder)
    if width == "fp16":
        model = model.half()
    names = list(read_config(folder)[0].inputs)
    example = tuple(torch.ones((2, 16), dtype=torch.int64) for _ in names)
    open_sizes = {name: {0: "batch", 1: "length"} for name in names}
    with _quiet():
        program = torch.onnx.export(
            model,
            (),
            kwargs=dict(zip(names, example, strict=True)),
            dynamo=True,
            dynamic_shapes=open_sizes,
            input_names=names,
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)


def _quantise(source: Path, path: Path) -> None:
    """Integer matrix products: weights per channel and unsigned, activations one scale a tensor as they come.

    Unsigned weights per channel err least on CPUs without VNNI, whose signed products saturate at 16 bits
    (ONNX Runtime, "Quantize ONNX models").
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            str(source),
            str(path),
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QUInt8,
            per_channel=True,
            extra_options={"MatMulConstBOnly": True},
        )


@contextlib.contextmanager
def _quiet() -> Any:
    """Exporters print progress and advice that is not for this program's user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
