"""Bit width of weights and activations: a precision plan that each runtime lowers with kernels of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.axis import Phase, Plan
from spaces.errors import Infeasible
from spaces.knob import Knob, Settings

if TYPE_CHECKING:  # torch takes seconds to import, and the names of widths are asked for before it is
    from torch import nn

    from spaces.shape import Shape
    from spaces.statistics import Statistics

#: fp16, bf16: weights and activations. int8: weights per channel, activations scaled as they come, integer products.
#: int8-static: the same with scales of activations that calibration fixed. int4: weights alone, a scale a group.
#: fp8: weights per channel and activations per token, in float8 products.
WIDTHS = ("fp32", "bf16", "fp16", "int8", "int8-static", "int4", "fp8")
#: Searched only where they are named.
CLOSED_WIDTHS = ("fp8",)
#: Widths that can spare some blocks: the others have one width for everything.
INTEGER = ("int8", "int8-static", "int4")
EMBEDDINGS = ("as-is", "int8")


class Bits:
    """Says which widths; whether they exist is a property of the pair of width and runtime (Infeasible there)."""

    name = "bits"
    phase = Phase.QUANTISE
    source = "Jacob et al. 2018, arXiv 1712.05877 (integer arithmetic); Dong et al. 2019, arXiv 1905.03696 (mixed)"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        width = Knob("width", off="fp32", choices=WIDTHS, help="width of weights and activations")
        embeddings = Knob(
            "embeddings",
            off="as-is",
            choices=EMBEDDINGS,
            closed=True,  # it makes a model smaller and no faster, so it is nothing for a search of latency
            help="width of the embedding tables: they shrink, nothing gets faster",
        )
        if not shape.layers:
            return (width, embeddings)
        wide = Knob(
            "wide",
            off=0,
            low=0,
            high=shape.depth,
            step=1,
            mode=True,
            closed=True,
            needs=("width", INTEGER),
            help="blocks that stay fp32 under an integer width, the most sensitive first; the head does with them",
        )
        return (width, embeddings, wide)

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        return precision(settings)

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        return statistics

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        """Nothing: the runtime does it."""

    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        """Nothing: the runtime does it."""


def precision(settings: Settings) -> Plan:
    """The precision plan of these settings: {"width"}, with "wide" and "embeddings" only where they are not off.

    Raises:
        Infeasible: an unknown width, or blocks to spare where there is no integer width.
    """
    width = str(settings.get("width", "fp32"))
    if width not in WIDTHS:
        raise Infeasible(f"bits.width must be one of {', '.join(WIDTHS)}, got {width!r}")
    plan: Plan = {"width": width}
    wide = int(settings.get("wide", 0))
    if wide < 0:
        raise Infeasible(f"bits.wide must be a number of blocks, got {wide}")
    if wide and width not in INTEGER:
        raise Infeasible(f"bits.wide must be 0 unless the width is {' or '.join(INTEGER)}, got {wide} with {width}")
    if wide:
        plan["wide"] = wide
    embeddings = str(settings.get("embeddings", "as-is"))
    if embeddings not in EMBEDDINGS:
        raise Infeasible(f"bits.embeddings must be one of {', '.join(EMBEDDINGS)}, got {embeddings!r}")
    if embeddings != "as-is":
        plan["embeddings"] = embeddings
    return plan
