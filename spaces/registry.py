"""The registered axes and runtimes, one line each.

A line has the names that a configuration may use. The class is imported on first use, because nearly all classes import
torch, which takes seconds, and a wrong name must be reported at once.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

from spaces.axis import Axis
from spaces.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Registration:
    """An axis or a runtime by name, and where its class is."""

    name: str
    module: str
    class_name: str
    knobs: tuple[str, ...] = ()  # of an axis: all that it may offer, for any model

    def make(self) -> Any:
        """Import the class and return an instance."""
        return getattr(importlib.import_module(self.module), self.class_name)()


#: In phase order, which is the order they are applied in.
AXIS_ENTRIES = (
    Registration("embedding", "spaces.axes.embedding", "EmbeddingSize", ("size",)),
    Registration("distill", "spaces.axes.distill", "Distill", ("layers", "width")),
    Registration("prune", "spaces.axes.prune", "Prune", ("heads", "neurons", "flops", "criterion", "tuning")),
    Registration(
        "low_rank", "spaces.axes.low_rank", "LowRankFactors", ("rank", "embeddings", "method", "allocation", "where")
    ),
    Registration("sparse", "spaces.axes.sparse", "SparseMatrices", ("weights", "pattern")),
    Registration(
        "bits",
        "spaces.axes.bits",
        "Bits",
        ("precision", "embeddings", "head", "rounding", "fp32_blocks", "int8_blocks"),
    ),
    Registration("cache", "spaces.axes.cache", "CacheKind", ("kind", "recent", "window", "sinks", "speculation")),
)
#: The first is the reference of parity and of "times faster than eager". The first trials of a search use the last one
#: that is available, so runtimes that open quickly come last.
RUNTIME_ENTRIES = (
    Registration("eager", "spaces.runtimes.eager", "Eager"),
    Registration("compiled", "spaces.runtimes.compiled", "Compiled"),
    Registration("compiled-max-autotune", "spaces.runtimes.compiled", "MaxAutotuned"),
    Registration("aot_inductor", "spaces.runtimes.aot_inductor", "AotInductor"),
    Registration("xla", "spaces.runtimes.xla", "Xla"),
    Registration("cuda_graph", "spaces.runtimes.cuda_graph", "CudaGraph"),
    Registration("tensorrt", "spaces.runtimes.tensorrt", "TensorRt"),
    Registration("onnx", "spaces.runtimes.onnx", "Onnx"),
    Registration("openvino", "spaces.runtimes.openvino", "OpenVino"),
)

#: Runtimes that are searched only where the configuration names them, because opening one takes a minute or more.
OPT_IN_RUNTIMES = ("compiled-max-autotune",)

#: Values, by knob, that are implemented from a library's documentation and have not run on their hardware yet.
EXPERIMENTAL = {"runtime.name": ("tensorrt",), "bits.precision": ("fp8",), "sparse.pattern": ("2-of-4",)}
#: Precisions that have not run on a CUDA device yet, and have on a CPU.
EXPERIMENTAL_ON_CUDA = ("int4",)


@functools.cache
def _instance_of(entry: Registration) -> Any:
    """The one instance of an entry's class."""
    return entry.make()


@functools.cache
def axes() -> tuple[Axis, ...]:
    """Every axis, imported."""
    return tuple(map(_instance_of, AXIS_ENTRIES))


@functools.cache
def runtimes() -> tuple[Runtime, ...]:
    """Every runtime, imported."""
    return tuple(map(_instance_of, RUNTIME_ENTRIES))


def axis_named(name: str) -> Axis:
    """The axis of this name, which alone is imported. Raises StopIteration where there is none."""
    axis: Axis = _instance_of(next(entry for entry in AXIS_ENTRIES if entry.name == name))
    return axis


def runtime_named(name: str) -> Runtime:
    """The runtime of this name, which alone is imported. Raises StopIteration where there is none."""
    runtime: Runtime = _instance_of(next(entry for entry in RUNTIME_ENTRIES if entry.name == name))
    return runtime
