"""A knob: one setting of an axis, the values that it can take, and the plan that settings become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Value = int | float | str
Settings = Mapping[str, Value]
Plan = dict[str, Any]  # JSON: what the data decided


@dataclass(frozen=True, slots=True)
class Knob:
    """One searched setting: an ordered range (`low`..`high` in steps of `step`, or log), or unordered `choices`.

    `off` is the value that makes its axis the identity. A `method` knob chooses how an axis works, not whether:
    it alone never switches its axis on, and it is fixed at `off` unless the configuration names it. So is an `opt_in`
    knob, which does switch its axis on. A knob with `needs` is inactive, and off, unless the named knob of its axis has
    one of these values.
    """

    name: str
    off: Value
    help: str
    choices: tuple[Value, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    method: bool = False
    opt_in: bool = False
    needs: tuple[str, tuple[Value, ...]] | None = None

    @property
    def ordered(self) -> bool:
        """Whether it has a range rather than choices."""
        return self.low is not None

    @property
    def single(self) -> Value | None:
        """The only value it can take, or None when there is a choice."""
        if self.ordered:
            return self.low if self.low == self.high else None
        return self.choices[0] if len(self.choices) == 1 else None

    @property
    def span(self) -> str:
        """The range of an ordered knob, in words."""
        assert self.low is not None and self.high is not None
        scale = " on a logarithmic scale" if self.log else f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{scale}"

    def fixed(self, value: Value) -> Knob:
        """This knob with `value` as its only value."""
        if self.ordered:
            assert not isinstance(value, str)
            return replace(self, low=value, high=value, step=None, log=False)
        return replace(self, choices=(value,))

    def applies(self, settings: Settings) -> bool:
        """Whether it is active under these settings of its axis (`needs`)."""
        return self.needs is None or settings[self.needs[0]] in self.needs[1]

    def tidy(self, value: Value) -> Value:
        """`value` in canonical form: 4.0 blocks are 4, a share of 1 is 1.0, and 0.1 + 0.2 is 0.3."""
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
        values = [self.low + i * self.step for i in range(count + 1)]
        return [v if isinstance(v, int) else round(v, 10) for v in values]
