"""What can be built: the axes of compression and the runtimes. One line registers each."""

from spaces.axes.bits import Bits
from spaces.axes.distill import Distill
from spaces.axes.low_rank import LowRankFactors
from spaces.axes.prune import Prune
from spaces.axes.sparse import SparseMatrices
from spaces.axis import Axis, Runtime
from spaces.runtimes.aot_inductor import AotInductor
from spaces.runtimes.compiled import Compiled, MaxAutotuned
from spaces.runtimes.cuda_graph import CudaGraph
from spaces.runtimes.eager import Eager
from spaces.runtimes.onnx import Onnx
from spaces.runtimes.openvino import OpenVino
from spaces.runtimes.tensorrt import TensorRt
from spaces.runtimes.xla import Xla

#: In phase order, which is the order they are applied in.
AXES: tuple[Axis, ...] = (Distill(), Prune(), LowRankFactors(), SparseMatrices(), Bits())
#: The first is the reference: parity and "times faster than eager" are against it. A search's first trials take the
#: last that is here, so the last are runtimes that open quickly.
RUNTIMES: tuple[Runtime, ...] = (
    Eager(),
    Compiled(),
    MaxAutotuned(),
    AotInductor(),
    Xla(),
    CudaGraph(),
    TensorRt(),
    Onnx(),
    OpenVino(),
)

#: Measured only where they are named: opening one takes a minute or more for every set of weights.
CLOSED_RUNTIMES = ("compiled-max-autotune",)


def axis(name: str) -> Axis:
    return next(a for a in AXES if a.name == name)


def runtime(name: str) -> Runtime:
    return next(r for r in RUNTIMES if r.name == name)
