"""The axes and the runtimes that there are: one line registers each.

A line says the names that a configuration may use. What it registers is imported when it is first asked for, because
nearly all of it brings torch, which takes seconds, and a wrong name is to be told at once.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

from spaces.axis import Axis
from spaces.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    module: str
    class_name: str
    knobs: tuple[str, ...] = ()  # of an axis: all that it offers for any model

    def make(self) -> Any:
        return getattr(importlib.import_module(self.module), self.class_name)()


#: In phase order, which is the order they are applied in.
AXIS_ENTRIES = (
    Entry("embedding", "spaces.axes.embedding", "EmbeddingSize", ("size",)),
    Entry("distill", "spaces.axes.distill", "Distill", ("layers", "width")),
    Entry("prune", "spaces.axes.prune", "Prune", ("heads", "neurons", "flops", "criterion", "tuning")),
    Entry(
        "low_rank", "spaces.axes.low_rank", "LowRankFactors", ("rank", "embeddings", "method", "allocation", "where")
    ),
    Entry("sparse", "spaces.axes.sparse", "SparseMatrices", ("weights", "pattern")),
    Entry("bits", "spaces.axes.bits", "Bits", ("precision", "embeddings", "head", "fp32_blocks")),
)
#: The first is the reference: parity and "times faster than eager" are against it. A search's first trials take the
#: last that is here, so the last are runtimes that open quickly.
RUNTIME_ENTRIES = (
    Entry("eager", "spaces.runtimes.eager", "Eager"),
    Entry("compiled", "spaces.runtimes.compiled", "Compiled"),
    Entry("compiled-max-autotune", "spaces.runtimes.compiled", "MaxAutotuned"),
    Entry("aot_inductor", "spaces.runtimes.aot_inductor", "AotInductor"),
    Entry("xla", "spaces.runtimes.xla", "Xla"),
    Entry("cuda_graph", "spaces.runtimes.cuda_graph", "CudaGraph"),
    Entry("tensorrt", "spaces.runtimes.tensorrt", "TensorRt"),
    Entry("onnx", "spaces.runtimes.onnx", "Onnx"),
    Entry("openvino", "spaces.runtimes.openvino", "OpenVino"),
)

#: Measured only where they are named: opening one takes a minute or more for every set of weights.
OPT_IN_RUNTIMES = ("compiled-max-autotune",)

#: By the knob that names it: what is written after a library's documentation, and has not run on its hardware yet.
EXPERIMENTAL = {"runtime.name": ("tensorrt",), "bits.precision": ("fp8",), "sparse.pattern": ("2-of-4",)}


@functools.cache
def axes() -> tuple[Axis, ...]:
    """Every axis, imported."""
    return tuple(entry.make() for entry in AXIS_ENTRIES)


@functools.cache
def runtimes() -> tuple[Runtime, ...]:
    """Every runtime, imported."""
    return tuple(entry.make() for entry in RUNTIME_ENTRIES)


def axis_named(name: str) -> Axis:
    return next(a for a in axes() if a.name == name)


def runtime_named(name: str) -> Runtime:
    return next(r for r in runtimes() if r.name == name)
