"""The margin that a request must have to be taken, learnt from the requests that were taken before it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

#: Share of the taken requests that may miss their deadline.
MISSES = 0.01
#: A request is tight where its expected time and the margin fill more than this share of the time it has. Only these
#: teach: a short queue is served by slower variants, and says nothing of a long one.
TIGHT = 0.5
#: Change of the factor per tight request that misses its deadline; those in time take back as much at `MISSES`.
RATE = 0.2
#: The largest factor: a machine that stalls for a while must not close the service.
MOST = 4.0
#: Times the objective, or the time that a request has: so long none is taken that could correct what refuses it.
STANDSTILL = 5.0


@dataclass(slots=True)
class Standstill:
    """Whether what was learnt refuses requests for long, while nothing comes that could correct it."""

    since_s: float = math.inf

    def refused(self, now_s: float, long_s: float) -> bool:
        """Record a refusal; returns whether they have lasted for longer than `long_s`, which then begins anew."""
        self.since_s = min(self.since_s, now_s)
        lasted = now_s - self.since_s > long_s
        if lasted:
            self.since_s = now_s
        return lasted

    def end(self) -> None:
        """Something has come."""
        self.since_s = math.inf


@dataclass(slots=True)
class AdmissionMargin:
    """The margin is `factor` times the predicted spread of the time until a request is answered.

    The factor follows the share of tight requests that miss their deadline, so that in the long run it is `MISSES`:
    stochastic approximation of a quantile (Robbins and Monro 1951). At 1 predictions are right, and calls vary
    independently of each other. It rises where they are too short or calls are slow together, and falls where the
    service is better than predicted. It falls too where it lets none in that could teach.
    """

    factor: float = 1.0
    _untaught: Standstill = field(default_factory=Standstill)

    def needed_s(self, expected_s: float, spread_s: float) -> float:
        """The time a request must have: what is expected and the margin, in seconds."""
        return expected_s + self.factor * spread_s

    def learn(self, missed: bool) -> None:
        """Record a tight request that was answered, or that missed its deadline."""
        self.factor = min(max(self.factor + RATE * (missed - MISSES), 0.0), MOST)
        self._untaught.end()

    def refused(self, now_s: float, long_s: float) -> None:
        """Record a request that the margin alone has refused; after `long_s` without a lesson the factor falls."""
        if self._untaught.refused(now_s, long_s):
            self.factor = max(self.factor - RATE, 0.0)


def spread_s(own_s: float, calls: Iterable[tuple[int, float]], tail: float, workers: int) -> float:
    """Seconds from the median to the 99th percentile of the time until a call is done that waits for others.

    Calls vary independently of each other, so that their variances add up.

    Args:
        own_s: expected seconds of the call itself.
        calls: (number, expected seconds of each) of those before it.
        tail: p99 over p50 of a call's time.
        workers: that share the calls.
    """
    squares = own_s**2 + sum(number * seconds**2 for number, seconds in calls) / workers**2
    return (tail - 1.0) * math.sqrt(squares)
