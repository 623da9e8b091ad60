"""The part of a request's time limit that is kept for storing its answer; sending it is not measured."""

from __future__ import annotations

import math
import threading

from search.serve.variants import P99_DEVIATIONS

#: The share of a moving average that the newest value has.
AVERAGE_RATE = 0.05
#: The largest share of a time limit that is kept, so that a slow database does not leave models without time.
MOST_RESERVED = 0.25


class Reserve:
    """Seconds in which 99 % of answers are stored, by a moving average of measured ones. Threads may share it.

    Without it a policy that uses all time that is left answers in time and sends late.
    """

    def __init__(self, first_s: float = 0.002) -> None:
        self._mean, self._variance = first_s, 0.0
        self._changing = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Record what storing one answer took."""
        with self._changing:
            error = seconds - self._mean
            self._mean += AVERAGE_RATE * error
            self._variance = (1 - AVERAGE_RATE) * (self._variance + AVERAGE_RATE * error * error)

    def left_s(self, within_s: float) -> float:
        """The seconds of a time limit of `within_s` that the models may use."""
        reserve_s = self._mean + P99_DEVIATIONS * math.sqrt(self._variance)
        return within_s - min(reserve_s, MOST_RESERVED * within_s)
