"""Estimates with their 95 % intervals, and differences and ratios of two of them."""

from __future__ import annotations

import math
from typing import NamedTuple


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high

    def includes(self, value: float) -> bool:
        """Whether `value` lies in the closed interval."""
        return self.low <= value <= self.high


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b from their intervals alone (MOVER: Zou & Donner, 2008), for independent estimates.

    Estimates that share rows or a baseline are positively correlated; then the interval is wider than it need be,
    which errs towards "not distinguishable".
    """
    value = a.value - b.value
    return Estimate(
        value,
        value - math.hypot(a.value - a.low, b.high - b.value),
        value + math.hypot(a.high - a.value, b.value - b.low),
    )


def ratio(a: Estimate, b: Estimate) -> Estimate:
    """a / b of two positive, independent estimates: `difference` on the log scale."""
    logs = difference(*(Estimate(*(math.log(x) for x in e)) for e in (a, b)))
    return Estimate(*(math.exp(x) for x in logs))
