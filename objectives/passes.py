"""The passes through a model that a measured time is of, and how often each cost of a pass occurs in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from objectives.arrays import Floats
from objectives.generation_times import TPOT, TTFT
from objectives.shapes import COSTS, Shapes, features

#: Tokens per row that the costs assume where rows have the data's own lengths.
OF_DATA = 32.0
#: The costs of a step of generation beside `COSTS`: memory bounds a step of few rows, so its bytes are counted.
STEP_COSTS = ("byte of the matrices", "byte of the cache")
_WEIGHT, _SCORE = COSTS.index("weight"), COSTS.index("attention score")


@dataclass(frozen=True, slots=True)
class Passes:
    """A pass over `batch` rows of `length` tokens each, then `steps` of one token a row.

    Args:
        first: 1, or 0 where the steps alone are timed.
        tokens: keys of a row that a step attends to, on average over the steps.
    """

    batch: int
    length: float
    first: int = 1
    steps: int = 0
    tokens: float = 0.0

    @classmethod
    def of(cls, time: str, conditions: Mapping[str, Any]) -> Passes:
        """Those of a measured time under its conditions.

        `ttft_ms` is of the prompt alone and `tpot_ms` of one step. A call has both where it has "new_tokens": the first
        of n comes from the prompt, and step j of the other n - 1 attends to the prompt, to j - 1 tokens and to itself.
        """
        batch, length, new_tokens = int(conditions["batch"]), conditions["length"], int(conditions.get("new_tokens", 0))
        whole = cls(batch, OF_DATA if length == "data" else float(length))
        if time == TTFT.name or new_tokens < 2:
            return whole
        tokens = whole.length + new_tokens / 2
        if time == TPOT.name:
            return cls(batch, whole.length, 0, 1, tokens)
        return cls(batch, whole.length, 1, new_tokens - 1, tokens)

    @property
    def costs(self) -> tuple[str, ...]:
        """The names of the F costs that occur."""
        return (*COSTS, *STEP_COSTS) if self.steps else COSTS

    def features(self, shapes: Shapes) -> Floats:
        """(N, F): the number of times that each of `costs` occurs."""
        whole = features(shapes, self.batch, self.length)
        if not self.steps:
            return whole
        nothing = np.zeros((len(shapes), len(STEP_COSTS)))
        amounts: Floats = self.first * np.hstack([whole, nothing]) + self.steps * self._of_a_step(shapes)
        return amounts

    def _of_a_step(self, shapes: Shapes) -> Floats:
        amounts = features(shapes, self.batch, 1)
        amounts[:, _WEIGHT] = 0.0  # in bytes instead
        amounts[:, _SCORE] *= self.tokens
        return np.column_stack([amounts, shapes.step_bytes, shapes.cache_bytes])
