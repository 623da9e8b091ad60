"""When a call of a worker's process counts as hung, from the objective and the variant's own times.

hang = HangLimit(variant, slo_s=0.2, tokens=windows.length)
hang.limit_s(hang.call_s(rows))     # seconds that the call may take
hang.learn(hang.call_s(rows), seconds)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.serve.exported_model import ExportedModel
from search.serve.generator import READ, Generator
from search.serve.variants import UNKNOWN_LENGTH, Variant

#: Seconds that every call may take: a machine that stalls for less is no reason to start a process again.
LEAST_S = 2.0
#: Times its predicted 99th percentile that a call may take.
PATIENCE = 10.0
#: Times that a runtime may take to compile for a new shape, of what it took when the process was started.
COMPILING = 3.0
#: The text that a language model continues when its process starts.
FIRST_TEXT = "A first text"
#: Times the `slowness` before it that one call may teach at most: a stall is no new speed.
TEACHING = 5.0
#: Share of a call's error by which `slowness` falls.
SLOWNESS_RATE = 0.05


@dataclass(frozen=True, slots=True)
class CallPace:
    """The time of a call on `rows` rows of `tokens` tokens, measured where the variant runs."""

    rows: int
    tokens: int
    seconds: float
    cold_s: float  # beyond that, for the first call of a shape


@dataclass
class HangLimit:
    """A call may take `PATIENCE` times its predicted p99, and never less than the objective or `least_s`.

    A runtime that compiles for each shape has `COMPILING` times what that takes in addition.
    """

    variant: Variant
    slo_s: float  # 0: calls have no objective of their own, as the pieces of a completion
    tokens: Callable[..., int]  # of a row of these texts, approximately
    least_s: float = LEAST_S
    slowness: float = 1.0  # a call's time here over the predicted one; 1 or more
    cold_s: float = 0.0

    def call_s(self, rows: Sequence[Any]) -> float:
        """The predicted median seconds of a call on rows."""
        return self.variant.seconds(len(rows), max(self.tokens(*texts_of(row)) for row in rows))

    def piece_s(self, prompt: Any = None) -> float:
        """The predicted median seconds to the next token of a completion; with a prompt, to the first one."""
        read = 0 if prompt is None else sum(self.tokens(*texts_of(part)) for part in messages_of(prompt)) // READ
        return self.variant.seconds(1, 1 + read)

    def limit_s(self, expected_s: float) -> float:
        """The seconds after which a call that is predicted to take `expected_s` counts as hung."""
        slow = PATIENCE * self.slowness * self.variant.tail * expected_s
        return max(self.least_s, self.slo_s, slow) + self._compiling_s

    def learn(self, expected_s: float, seconds: float) -> None:
        """Follow calls that take longer than predicted: at once to a slower one, slowly back.

        The time that every call has for compiling teaches nothing, and one call teaches `TEACHING` times at most.
        """
        ratio = max((seconds - self._compiling_s) / expected_s, 1.0)
        ratio = min(ratio, TEACHING * self.slowness)
        self.slowness = max(ratio, self.slowness + SLOWNESS_RATE * (ratio - self.slowness))

    def paced(self, pace: CallPace) -> None:
        """Take what was measured when the process was started."""
        self.slowness = max(self.slowness, pace.seconds / self.variant.seconds(pace.rows, pace.tokens))
        self.cold_s = max(pace.cold_s, 0.0)

    @property
    def _compiling_s(self) -> float:
        """The seconds that a call has for compiling."""
        return COMPILING * self.cold_s


def warmed(model: ExportedModel) -> CallPace | None:
    """The pace of a model, whose first call this is; None for one that generates (`generation_request.timed`)."""
    if isinstance(model, Generator):
        for _ in model.pieces(FIRST_TEXT, max_new_tokens=2):  # the first token, and a step from one to the next
            pass
        return None
    workload = model.record.config["workload"]
    rows = int(workload["batch"])
    tokens = int(workload["length"]) if isinstance(workload["length"], int) else UNKNOWN_LENGTH

    def took(count: int) -> float:
        batch = model.made_up(count, tokens)
        began = time.perf_counter()
        model.output(batch)
        return time.perf_counter() - began

    took(rows)
    seconds = sorted(took(rows) for _ in range(3))[1]
    cold, again = took(rows + 1), took(rows + 1)
    return CallPace(rows, tokens, seconds, cold - again)


def messages_of(prompt: Any) -> Sequence[Any]:
    """The parts of a prompt: itself, or the messages of a chat."""
    return [prompt] if isinstance(prompt, str) else list(prompt)


def texts_of(row: Any) -> tuple[str, ...]:
    """The texts of a row: itself, or the values of its columns."""
    return tuple(map(str, row.values())) if isinstance(row, Mapping) else (str(row),)
