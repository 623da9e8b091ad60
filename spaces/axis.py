"""What an axis and a runtime are: the two things a recipe is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import nn

    from spaces.shape import Shape
    from spaces.statistics import Statistics

Value = int | float | str
Settings = Mapping[str, Value]
Plan = dict[str, Any]  # JSON: what the data decided


class Phase(IntEnum):
    """When an axis acts; recovery training runs between SPARSIFY and QUANTISE."""

    SHAPE = 10
    PRUNE = 20
    FACTORISE = 30
    SPARSIFY = 35
    RECOVER = 40
    QUANTISE = 50
    RUNTIME = 60


class Infeasible(Exception):  # noqa: N818 - a finding about a recipe, not an error of the program
    """This recipe cannot exist here, and why: no kernel for the width, a missing package or compiler."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One searched setting: an ordered range (`low`..`high` in steps of `step`, or log), or unordered `choices`.

    `off` is the value that makes its axis the identity. A `mode` knob chooses how an axis works, not whether:
    it alone never switches its axis on, and it is fixed at `off` unless the user opens it. So is a `closed` knob,
    which does switch its axis on. A knob that `needs` values of another of its axis is off under the other values.
    """

    name: str
    off: Value
    help: str
    choices: tuple[Value, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    mode: bool = False
    closed: bool = False
    needs: tuple[str, tuple[Value, ...]] | None = None

    @property
    def ordered(self) -> bool:
        return self.low is not None

    @property
    def single(self) -> Value | None:
        """The only value it can take, or None when there is a choice."""
        if self.ordered:
            return self.low if self.low == self.high else None
        return self.choices[0] if len(self.choices) == 1 else None

    def fixed(self, value: Value) -> Knob:
        if self.ordered:
            assert not isinstance(value, str)
            return replace(self, low=value, high=value, step=None, log=False)
        return replace(self, choices=(value,))

    def applies(self, settings: Settings) -> bool:
        """Whether it says anything beside these settings of its axis."""
        return self.needs is None or settings[self.needs[0]] in self.needs[1]

    def tidy(self, value: Value) -> Value:
        """`value` as this knob writes it: 4.0 blocks are 4, a share of 1 is 1.0, and 0.1 + 0.2 is 0.3."""
        if not self.ordered or isinstance(value, str):
            return value
        if isinstance(self.off, int) and float(value).is_integer():
            return int(value)
        return round(float(value), 10)

    def values(self) -> list[Value]:
        """Every value on the grid, lowest first (a knob without a step gives its ends)."""
        if not self.ordered:
            return list(self.choices)
        assert self.low is not None and self.high is not None
        if self.step is None:
            return [self.low] if self.low == self.high else [self.low, self.high]
        count = round((self.high - self.low) / self.step)
        made = [self.low + i * self.step for i in range(count + 1)]
        return [v if isinstance(v, int) else round(v, 10) for v in made]


class Axis(Protocol):
    """One way of making a model smaller. A new one is a file in `axes/` and a line in `spaces.registry`.

    Statistics always describe the model as the axes before left it: `decide` turns them into a plan, `carry`
    into the statistics of what the plan leaves. So the final shape is known before any weight is touched.
    """

    name: str
    phase: Phase
    source: str

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        """What can be set for a model of this shape."""
        ...

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        """The plan, from the teacher's statistics alone. Raises Infeasible."""
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
        `statistics` are those `decide` saw.
        """
        ...


class Predict(Protocol):
    """A prepared model: numpy arrays by input name in, numpy arrays by output name out."""

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a runtime may need to know about where it runs."""

    device: str = "cpu"  # "cpu" or "cuda"
    threads: int = 0  # 0: the runtime's own default


class Runtime(Protocol):
    """One way of running a model. A new one is a file in `runtimes/` and a line in `spaces.registry`."""

    name: str
    source: str
    install: str  # the command that brings what it needs, or ""

    def missing(self, context: Context) -> str | None:
        """Why it cannot run here at all, or None. Must be cheap and must not import heavy packages."""
        ...

    def widths(self, context: Context) -> tuple[str, ...]:
        """Bit widths it lowers to real kernels on this device, "fp32" first."""
        ...

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        """Prepare the model stored in `folder` under the precision `plan`. Raises Infeasible.

        Graphs and programs that it makes of the weights are kept in `folder`, and found there the next time.
        """
        ...

    def made_by(self, context: Context) -> Mapping[str, str]:
        """What the files it makes depend on beside weights and plan: versions, a processor. Empty if it makes none."""
        ...

    def made_from(self, plan: Plan) -> Plan | None:
        """The plan whose files those of `plan` are made from; None where they are made from the weights."""
        ...

    def files(self, plan: Plan) -> tuple[str, ...]:
        """The files in the model's folder that hold the weights it runs, once it was opened."""
        ...
