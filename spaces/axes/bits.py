"""Bit width of weights and activations: a precision plan that each runtime lowers with kernels of its own."""

from __future__ import annotations

from torch import nn

from spaces.anatomy import Shape
from spaces.axis import Infeasible, Knob, Phase, Plan, Settings
from spaces.statistics import Statistics

#: fp16, bf16: weights and activations. int8: weights per channel, activations quantised as they come, integer products.
WIDTHS = ("fp32", "bf16", "fp16", "int8")


class Bits:
    """Says which width; whether it exists is a property of the pair of width and runtime (Infeasible there)."""

    name = "bits"
    phase = Phase.QUANTISE
    source = "Jacob et al. 2018, arXiv 1712.05877 (integer arithmetic)"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        return (Knob("width", off="fp32", choices=WIDTHS, help="width of weights and activations"),)

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        return precision(settings)

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        return statistics

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        """Nothing: the runtime does it."""

    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        """Nothing: the runtime does it."""


def precision(settings: Settings) -> Plan:
    """The precision plan of these settings. Raises Infeasible for an unknown width."""
    width = str(settings.get("width", "fp32"))
    if width not in WIDTHS:
        raise Infeasible(f"bits.width must be one of {', '.join(WIDTHS)}, got {width!r}")
    return {"width": width}
