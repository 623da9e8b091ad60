"""Bit precision of weights and activations: a precision plan that each runtime lowers with kernels of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.axis import Phase
from spaces.errors import Infeasible
from spaces.knob import Knob, Plan, Settings

if TYPE_CHECKING:  # torch takes seconds to import, and the names of precisions are asked for before it is
    from torch import nn

    from spaces.shape import Shape
    from spaces.statistics import Statistics

#: fp16, bf16: weights and activations. int8: weights per channel, activations scaled at run time, integer products.
#: int8-static: the same with calibrated, fixed scales of activations. int4: weights alone, one scale per group.
#: fp8: weights per channel and activations per token, in float8 products.
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int8-static", "int4", "fp8")
#: Precisions that are searched only where the configuration names them.
OPT_IN_PRECISIONS = ("fp8",)
#: Precisions under which some blocks can stay fp32; the others apply to all blocks.
INTEGER = ("int8", "int8-static", "int4")
EMBEDDING_PRECISIONS = ("as-is", "int8")
#: Runtimes that gather from tables of integers.
WITH_INTEGER_TABLES = ("onnx", "openvino")
#: Precisions of a causal language model's output matrix, a third of a small model's weights; "body": the blocks'.
HEAD_PRECISIONS = ("body", "fp32", "int8", "int4")
#: Precisions beside which it can have another.
WITH_A_HEAD = ("int8", "int4")
#: Precisions under which some blocks of a causal language model can have int8 weights.
WITH_INT8_BLOCKS = ("int4",)
#: Runtimes that multiply int4 weights by bf16 activations (`spaces.runtimes.int4`); others have fp32 ones beside them.
TORCH_INT4_RUNTIMES = ("eager", "compiled", "compiled-max-autotune", "cuda_graph")
#: How int4 is made of a causal language model's weights. nearest: each group fitted to its weights alone; gptq: with
#: error feedback, to what the matrix gives on calibration rows (`spaces.gptq`).
ROUNDINGS = ("nearest", "gptq")


class Bits:
    """Chooses a precision. A runtime without kernels for it raises Infeasible."""

    name = "bits"
    phase = Phase.QUANTISE
    source = "Jacob et al. 2018, arXiv 1712.05877 (integer arithmetic); Dong et al. 2019, arXiv 1905.03696 (mixed)"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        precision = Knob("precision", off="fp32", choices=PRECISIONS, help="precision of weights and activations")
        embeddings = Knob(
            "embeddings",
            off="as-is",
            choices=EMBEDDING_PRECISIONS,
            opt_in=True,  # it makes a model smaller but no faster, which a search of latency does not want
            help="precision of the embedding tables: for size only, calls get no faster",
        )
        head = Knob(
            "head",
            off="body",
            choices=HEAD_PRECISIONS,
            method=True,
            opt_in=True,
            needs=("precision", WITH_A_HEAD),
            help="precision of a causal language model's output matrix; body: that of its blocks",
        )
        rounding = Knob(
            "rounding",
            off=ROUNDINGS[0],
            choices=ROUNDINGS,
            method=True,
            opt_in=True,
            needs=("precision", ("int4",)),
            help="how a causal language model's int4 is made: of the weights alone, or by outputs on training rows",
        )
        if not shape.layers:
            return (precision, embeddings, head, rounding)
        fp32_help = "blocks that stay fp32 under an integer precision, the most sensitive first; so does the head then"
        int8_help = "blocks of a causal language model with int8 weights under int4, the most sensitive first"
        blocks = (
            _counted("fp32_blocks", shape.depth, INTEGER, fp32_help),
            _counted("int8_blocks", shape.depth, WITH_INT8_BLOCKS, int8_help),
        )
        return (precision, embeddings, head, rounding, *blocks)

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        return precision(settings)

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        return statistics

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        """Does nothing, because the runtime lowers the plan."""

    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        """Does nothing, because the runtime lowers the plan."""


def _counted(name: str, depth: int, precisions: tuple[str, ...], what: str) -> Knob:
    """A number of blocks that have another precision than the others under one of `precisions`."""
    return Knob(
        name,
        off=0,
        low=0,
        high=depth,
        step=1,
        method=True,
        opt_in=True,
        needs=("precision", precisions),
        help=what,
    )


def precision(settings: Settings) -> Plan:
    """The precision plan of these settings: {"precision"}, with "fp32_blocks", "int8_blocks", "embeddings", "head" and
    "rounding" only where they are not off.

    Raises:
        Infeasible: an unknown value, fp32 blocks without an integer precision, or int8 blocks without int4.
    """
    precision = str(settings.get("precision", "fp32"))
    if precision not in PRECISIONS:
        raise Infeasible(f"bits.precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    plan: Plan = {"precision": precision}
    for name, precisions in (("fp32_blocks", INTEGER), ("int8_blocks", WITH_INT8_BLOCKS)):
        count = int(settings.get(name, 0))
        if count < 0:
            raise Infeasible(f"bits.{name} must be 0 or more, got {count}")
        if count and precision not in precisions:
            wanted = f"must be 0 unless the precision is {' or '.join(precisions)}"
            raise Infeasible(f"bits.{name} {wanted}, got {count} with {precision}")
        if count:
            plan[name] = count
    embeddings = str(settings.get("embeddings", "as-is"))
    if embeddings not in EMBEDDING_PRECISIONS:
        raise Infeasible(f"bits.embeddings must be one of {', '.join(EMBEDDING_PRECISIONS)}, got {embeddings!r}")
    if embeddings != "as-is":
        plan["embeddings"] = embeddings
    head = str(settings.get("head", "body"))
    if head not in HEAD_PRECISIONS:
        raise Infeasible(f"bits.head must be one of {', '.join(HEAD_PRECISIONS)}, got {head!r}")
    if head not in ("body", precision):
        plan["head"] = head
    rounding = str(settings.get("rounding", ROUNDINGS[0]))
    if rounding not in ROUNDINGS:
        raise Infeasible(f"bits.rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if rounding != ROUNDINGS[0]:
        plan["rounding"] = rounding
    return plan
