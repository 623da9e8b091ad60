"""What can be built: the axes of compression and the runtimes. One line registers each."""

from spaces.axes.bits import Bits
from spaces.axes.distill import Distill
from spaces.axes.low_rank import LowRankFactors
from spaces.axes.prune import Prune
from spaces.axis import Axis, Runtime
from spaces.runtimes.compiled import Compiled
from spaces.runtimes.cuda_graph import CudaGraph
from spaces.runtimes.eager import Eager
from spaces.runtimes.onnx import Onnx
from spaces.runtimes.openvino import OpenVino

#: In phase order, which is the order they are applied in.
AXES: tuple[Axis, ...] = (Distill(), Prune(), LowRankFactors(), Bits())
#: The first is the reference: parity and "times faster than eager" are against it.
RUNTIMES: tuple[Runtime, ...] = (Eager(), Compiled(), CudaGraph(), Onnx(), OpenVino())


def axis(name: str) -> Axis:
    return next(a for a in AXES if a.name == name)


def runtime(name: str) -> Runtime:
    return next(r for r in RUNTIMES if r.name == name)
