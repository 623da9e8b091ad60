"""Metrics: numbers computed from predictions and references, their direction, and how a loss of them is counted.

Reports show the metric's own value: an RMSE of 0.4, a perplexity of 21.3, an F1 of 0.83. Its
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

from objectives.arrays import Floats
from objectives.measurement import Direction, Objective

Labels = NDArray[Any]  # (N,) class numbers from 0; (N, C) 0 or 1 for each label; (N,) numbers
Predictions = NDArray[Any]  # as the references, or (N,) rows' scores

#: Lower bound on errors before a logarithm or a ratio is taken.
LEAST_METRIC_ERROR = 1e-12


@dataclass(frozen=True, slots=True)
class Metric:
    """A number computed from predictions and references by two equal implementations.

    `compute`, by scikit-learn or scipy, gives the reported value. The other scores thousands of bootstrap draws in one
    array operation, where scikit-learn scores one draw at a time: from confusion counts (`of_counts`) for one class per
    row, or from how often each row is drawn (`of_draws`) for label sets and numbers. Without either, predictions are
    the rows' own scores, and the metric is their mean.

    The number of classes C is the task's and never inferred from rows, so that no row changes what the metric means.
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
        """Its name in tables and units."""
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
        """The metric as an objective of a search."""
        return Objective(self.name, self.unit, self.better, self.description)

    def loss(self, value: Floats | float, baseline: Floats | float) -> Floats:
        """How much worse `value` is than `baseline`, in `loss_unit`; below 0 where it is better."""
        if self.better == "higher":
            return 100 * (np.asarray(baseline) - value)
        return 100 * (np.asarray(value) - baseline) / np.maximum(baseline, LEAST_METRIC_ERROR)

    def utility(self, value: float) -> float:
        """`value` as a number of which higher is better, and equal differences are equal losses."""
        return value if self.better == "higher" else -math.log(max(value, LEAST_METRIC_ERROR))

    def drop(self, loss: float) -> float:
        """How much lower `utility` is at this loss (in `loss_unit`)."""
        return loss / 100 if self.better == "higher" else math.log(max(1 + loss / 100, LEAST_METRIC_ERROR))


def mean_of_rows(name: str, description: str, words: str = "", better: Direction = "higher") -> Metric:
    """The metric of a task that scores its rows one by one: their mean."""
    return Metric(name, description, _mean, None, better=better, words=words)


def _mean(references: Labels, predictions: Predictions, classes: int) -> float:
    return float(predictions.mean())
