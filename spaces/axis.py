"""The interface of an axis: one way of making a model smaller."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from spaces.knob import Knob, Plan, Settings

if TYPE_CHECKING:
    from torch import nn

    from spaces.shape import Shape
    from spaces.statistics import Statistics


class Phase(IntEnum):
    """When an axis acts; recovery training runs between SPARSIFY and QUANTISE."""

    SHAPE = 10
    PRUNE = 20
    FACTORISE = 30
    SPARSIFY = 35
    RECOVER = 40
    QUANTISE = 50
    RUNTIME = 60


class Axis(Protocol):
    """One way of making a model smaller. A new one is a file in `axes/` and a line in `spaces.registry`.

    Statistics always describe the model as the axes before left it: `decide` turns them into a plan, `carry`
    into the statistics of what the plan leaves. So the final shape is known before any weight is touched.
    """

    name: str
    phase: Phase
    source: str

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        """The knobs that the axis offers for a model of this shape; () where it does not apply."""
        ...

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        """The plan, from statistics and settings alone. Raises Infeasible where the model cannot be cut so."""
        ...

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        """The statistics of the model after `plan`."""
        ...

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        """Swap modules of `model` in place for ones of the planned shape (weights arbitrary)."""
        ...

    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        """Give the replaced modules of `model` their weights from `source`.

        `model` is a reshaped copy of `source`, so what was not replaced has its weights already.
        `statistics` are those that `decide` was given.
        """
        ...
