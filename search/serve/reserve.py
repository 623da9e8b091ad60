"""The part of a request's time limit that is kept for the service itself; sending an answer is not measured."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

from search.serve.variants import P99_DEVIATIONS

#: The share of a moving average that the newest value has.
AVERAGE_RATE = 0.05
#: The largest share of a time limit that is kept, so that a slow database does not leave models without time.
MOST_RESERVED = 0.25


class Reserve:
    """Seconds that 99 % of answers take beside their models, by a moving average of measured ones.

    These are its hand-overs between threads and its storing. Threads may share a reserve. Without one a policy
    that uses all time that is left answers in time and sends late.
    """

    def __init__(self, first_s: float = 0.002) -> None:
        self._mean, self._variance = first_s, 0.0
        self._changing = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Record what one answer took beside its models."""
        with self._changing:
            error = seconds - self._mean
            self._mean += AVERAGE_RATE * error
            self._variance = (1 - AVERAGE_RATE) * (self._variance + AVERAGE_RATE * error * error)

    def left_s(self, within_s: float) -> float:
        """The seconds of a time limit of `within_s` that the models may use."""
        reserve_s = self._mean + P99_DEVIATIONS * math.sqrt(self._variance)
        return within_s - min(reserve_s, MOST_RESERVED * within_s)


def handing_over_s(milliseconds: Mapping[str, float]) -> float:
    """Seconds of an answer's stage "answer" in which its rows neither waited in the queue nor were computed."""
    if "model" not in milliseconds:
        return 0.0
    return max(milliseconds["answer"] - milliseconds["wait"] - milliseconds["model"], 0.0) / 1e3
