"""ONNX Runtime: the exported graph under its own optimiser and kernels."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces import calibration, sensitivity
from spaces.base import is_causal
from spaces.code_digest import code_digest
from spaces.errors import Infeasible
from spaces.generation.onnx_program import ONNX_CACHES, OnnxProgram, OnnxScores
from spaces.generation.program import CacheSettings, Program
from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes import causal_onnx, quantise
from spaces.runtimes.atomic_file import written_whole
from spaces.runtimes.attention_fusion import fuse_attention
from spaces.runtimes.requirements import require

if TYPE_CHECKING:
    from spaces.base import Base, TaskModel

ONNX_FOLDER = "onnx"
Providers = Sequence[tuple[str, Mapping[str, Any]]]
CPU: Providers = (("CPUExecutionProvider", {}),)
CUDA: Providers = (("CUDAExecutionProvider", {}),)
#: What writes a graph, of this program.
GRAPH_WRITERS = (
    "spaces.runtimes.onnx",
    "spaces.runtimes.quantise",
    "spaces.runtimes.attention_fusion",
    "spaces.runtimes.torch_predict",
    "spaces.runtimes.causal_onnx",
    "spaces.generation.onnx_decoder",
    "spaces.generation.onnx_linear",
    "spaces.generation.onnx_file",
    "spaces.generation.calibrated",
    "spaces.gptq",
    "spaces.weight_groups",
)


class FromGraph:
    """Mixin of runtimes that run the ONNX graph of a plan, and write it where the folder does not have it."""

    fused = True  # whether the graph has attention as one operator, which is ONNX Runtime's own

    def files(self, plan: Plan) -> tuple[str, ...]:
        return (file_of(plan, self.fused),)

    def made_by(self, context: Context) -> Mapping[str, str]:
        return {**versions(), "code": code_digest(*GRAPH_WRITERS)}

    def made_from(self, plan: Plan, folder: Path) -> Plan | None:
        return None if is_causal(folder) else source_of(plan)


class Onnx(FromGraph):
    """fp32 (fp16 on CUDA) as exported; integers as rewritings of that graph (`spaces.runtimes.quantise`)."""

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

    def precisions(self, context: Context) -> tuple[str, ...]:
        return ("fp32", "fp16") if context.device == "cuda" else ("fp32", "int8", "int8-static", "int4")

    def generating_precisions(self, context: Context) -> tuple[str, ...]:
        return causal_onnx.CAUSAL_GRAPH_PRECISIONS if context.device == "cpu" else ()

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        if is_causal(folder):
            return OnnxScores(self._causal(folder, plan, context))
        require(self, plan, context)
        causal_onnx.refuse_others(plan)
        return OnnxPredict(graph(folder, plan), context, CUDA if context.device == "cuda" else CPU)

    def cache_kinds(self, context: Context) -> tuple[str, ...]:
        return ONNX_CACHES if context.device == "cpu" else ()

    def open_program(self, folder: Path, plan: Plan, settings: CacheSettings, context: Context) -> Program:
        return OnnxProgram(self._causal(folder, plan, context), settings)

    def _causal(self, folder: Path, plan: Plan, context: Context) -> Any:
        """A session of a causal language model."""
        require(self, plan, context, precisions=causal_onnx.CAUSAL_GRAPH_PRECISIONS)
        return open_session(causal_onnx.causal_graph(folder, plan, folder / file_of(plan), context), context, CPU)


def absent() -> list[str]:
    """The required packages that are not installed."""
    return [p for p in ("onnxruntime", "onnx", "onnxscript") if importlib.util.find_spec(p) is None]


def providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def open_session(path: Path, context: Context, wanted: Providers) -> Any:
    """A graph, opened. Its threads spin only while it runs, so that an idle session takes no CPU.

    `wanted`: execution providers with their options; later ones run what the first does not support.

    Raises:
        Infeasible: ONNX Runtime does not accept the first provider.
    """
    import onnxruntime
    from loky import cpu_count

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = context.threads or int(cpu_count())
    options.log_severity_level = 3
    options_by_name = [(name, dict(chosen)) for name, chosen in wanted]
    opened = onnxruntime.InferenceSession(str(path), options, providers=options_by_name)
    if opened.get_providers()[0] != options_by_name[0][0]:
        raise Infeasible(f"ONNX Runtime did not take the {options_by_name[0][0]}")
    return opened


class OnnxPredict:
    """One session: the model's outputs by name."""

    def __init__(self, path: Path, context: Context, wanted: Providers) -> None:
        self._session = open_session(path, context, wanted)
        self._inputs = [i.name for i in self._session.get_inputs()]
        self._outputs = [o.name for o in self._session.get_outputs()]

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = self._session.run(self._outputs, {name: batch[name] for name in self._inputs})
        return dict(zip(self._outputs, values, strict=True))


def file_of(plan: Plan, fused: bool = True) -> str:
    """The graph's file in a model folder: onnx/fp32.onnx, onnx/int8-w2.onnx, onnx/int8-e8.onnx, onnx/int4-h8.onnx.

    -w2 are two fp32 blocks, and -b2 of an int4 two int8 ones. Without fused attention it is onnx/fp32-unfused.onnx.
    """
    parts = (
        f"-w{plan['fp32_blocks']}" if plan.get("fp32_blocks") else "",
        f"-b{plan['int8_blocks']}" if plan.get("int8_blocks") else "",
        "-e8" if plan.get("embeddings") == "int8" else "",
        f"-h{str(plan['head']).lstrip('intfp')}" if "head" in plan else "",
        f"-{plan['rounding']}" if "rounding" in plan else "",
        "" if fused else "-unfused",
    )
    return f"{ONNX_FOLDER}/{plan['precision']}{''.join(parts)}.onnx"


def versions() -> dict[str, str]:
    """Versions of the packages that make a graph (exporter, quantiser); "" for those that are not installed."""
    installed = {}
    for package in ("torch", "transformers", "onnxscript", "onnx", "onnxruntime", "onnxruntime-gpu"):
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = ""
    return installed


def source_of(plan: Plan) -> Plan | None:
    """The plan whose graph that of `plan` is rewritten from (`_make`); None where it is exported from the weights."""
    precision, embeddings = str(plan["precision"]), plan.get("embeddings")
    if precision in ("fp32", "fp16"):
        return None if embeddings is None else {"precision": precision}
    return {**({} if embeddings is None else {"embeddings": embeddings}), "precision": "fp32"}


def graph(folder: Path, plan: Plan, fused: bool = True) -> Path:
    """The ONNX file of the model in `folder` under this plan; written where it does not exist yet.

    `fused`: with attention as one operator (`spaces.runtimes.attention_fusion`).

    Raises:
        Infeasible: the folder lacks calibration rows or sensitivities that the plan needs, or the graph has no tables.
    """
    path = folder / file_of(plan, fused)
    if not path.exists():
        with written_whole(path) as partial:
            _make(folder, plan, partial, fused)
    return path


def _make(folder: Path, plan: Plan, path: Path, fused: bool) -> None:
    """A plan's graph from that of a plainer plan: precisions of blocks last, then tables, then the export."""
    precision, fp32_blocks, embeddings = str(plan["precision"]), int(plan.get("fp32_blocks", 0)), plan.get("embeddings")
    if precision in ("fp32", "fp16"):
        if embeddings is None:
            write_graph(folder, path, precision, fused)
        else:
            quantise.tables(graph(folder, {"precision": precision}, fused), path)
        return
    blocks = sensitivity.read(folder) if fp32_blocks else []
    rows = calibration.read(folder) if precision == "int8-static" else []
    wanted = source_of(plan)
    assert wanted is not None
    graph_file = graph(folder, wanted, fused)
    with _quiet(), tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as scratch:
        source = Path(scratch) / graph_file.name
        source.symlink_to(graph_file.resolve())  # quantisers write beside what they read
        keep = quantise.spared(source, blocks, fp32_blocks) if fp32_blocks else []
        if precision == "int8":
            quantise.dynamic(source, path, keep)
        elif precision == "int8-static":
            quantise.static(source, path, keep, rows)
        elif precision == "bf16":
            quantise.bfloat16(source, path)
        else:
            quantise.four_bits(source, path, keep)


def write_graph(folder: Path, path: Path, precision: str, fused: bool) -> None:
    """Export the model in `folder` to an ONNX file at `path`, in fp32 or fp16, with batch and length left open."""
    import torch

    from spaces import build
    from spaces.base import read_config

    model: TaskModel = build.load_model(folder)
    if precision == "fp16":
        from spaces.runtimes.torch_predict import in_dtype

        model = in_dtype(model, torch.float16)
    base = read_config(folder)[0]
    with _quiet():
        program = _exported(model, base)
        if fused and not fuse_attention(program.model):
            program = _exported(model, base)  # the same outputs, without the operator
        program.save(str(path), external_data=False)


def _exported(model: TaskModel, base: Base) -> Any:
    """The ONNX program of a model, with batch and length left open."""
    import torch

    names = list(base.inputs)
    example = tuple(torch.ones((2, 16), dtype=torch.int64) for _ in names)
    program = torch.onnx.export(
        model,
        (),
        kwargs=dict(zip(names, example, strict=True)),
        dynamo=True,
        dynamic_shapes={name: {0: "batch", 1: "length"} for name in names},
        input_names=names,
        output_names=[base.output],
        verbose=False,
    )
    assert program is not None
    return program


@contextlib.contextmanager
def _quiet() -> Any:
    """Suppress the progress and advice that exporters print, inside the block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
