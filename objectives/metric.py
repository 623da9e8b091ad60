"""What a metric is: a number made of predictions and references, its direction, and how a loss of it is counted.

Whatever people and tools read shows the metric's own value: an RMSE of 0.4, a perplexity of 21.3, an F1 of 0.83. Its
direction is `Metric.better`, its unit `Metric.unit`. Two numbers follow from it:

- `Metric.loss(value, baseline)`, above 0 where the value is worse, in `Metric.loss_unit`: "F1 points" (0.01) of a
  share, and "% of perplexity" of a metric of which lower is better, because its unit is that of the data.
- `Metric.utility(value)`, of which higher is better, for models of the quality of recipes: the value itself, or minus
  its logarithm where lower is better. `Metric.drop(loss)` is how much lower it is at a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.measurement import Direction, Objective

Labels = NDArray[Any]  # (N,) class numbers from 0; (N, C) 0 or 1 for each label; (N,) numbers
Floats = NDArray[np.float64]
Predictions = NDArray[Any]  # as the references, or (N,) rows' scores

#: An error of 0 has no logarithm, and nothing is a share of it.
LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Metric:
    """A number made of predictions and references, twice: once as it is reported, and fast, for many bootstrap draws.

    The first is by scikit-learn or scipy. The second is from confusion counts (`of_counts`) for one class a row, and
    from how often each row is drawn (`of_draws`) for label sets and numbers. Where there is neither the predictions are
    the rows' own scores, and the metric is their mean.

    The first is what is reported; the second, equal to it, is by hand because it scores thousands of bootstrap draws in
    one array operation, where scikit-learn scores one draw at a time. Both take the number of classes C from the task,
    never from the rows, so that no row changes what the metric means.
    """

    name: str
    description: str
    compute: Callable[[Labels, Predictions, int], float]  # references (N,), predictions (N,), C
    of_counts: Callable[[Floats], Floats] | None  # (..., C, C) [reference, prediction] -> (...)
    #: references, predictions, (draws, N) how often each row is drawn -> (draws,)
    of_draws: Callable[[Labels, Predictions, Floats], Floats] | None = None
    better: Direction = "higher"  # "lower" of an error, 0 or more
    words: str = ""  # its name in tables and units; "" where that is `name` with spaces

    @property
    def title(self) -> str:
        return self.words or self.name.replace("_", " ")

    @property
    def unit(self) -> str:
        """A share, or the metric's own name: "0.42 RMSE", "21.3 perplexity"."""
        return "fraction" if self.better == "higher" else self.title

    @property
    def loss_unit(self) -> str:
        """The unit of `loss`, in words: "F1 points", "% of perplexity"."""
        return f"{self.title} points" if self.better == "higher" else f"% of {self.title}"

    @property
    def perfect(self) -> float:
        """The value of a model that makes no error."""
        return 1.0 if self.better == "higher" else 0.0

    @property
    def objective(self) -> Objective:
        return Objective(self.name, self.unit, self.better, self.description)

    def loss(self, value: Floats | float, baseline: Floats | float) -> Floats:
        """How much worse `value` is than `baseline`, in `loss_unit`; below 0 where it is better."""
        if self.better == "higher":
            return 100 * (np.asarray(baseline) - value)
        return 100 * (np.asarray(value) - baseline) / np.maximum(baseline, LEAST)

    def utility(self, value: float) -> float:
        """`value` as a number of which higher is better, and equal differences are equal losses."""
        return value if self.better == "higher" else -math.log(max(value, LEAST))

    def drop(self, loss: float) -> float:
        """How much lower `utility` is at this loss (in `loss_unit`)."""
        return loss / 100 if self.better == "higher" else math.log(max(1 + loss / 100, LEAST))
