"""What a metric is: a number made of predictions and references."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.measurement import Objective

Labels = NDArray[Any]  # (N,) class numbers from 0; (N, C) 0 or 1 for each label; (N,) numbers
Floats = NDArray[np.float64]
Predictions = NDArray[Any]  # as the references, or (N,) rows' scores


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

    @property
    def objective(self) -> Objective:
        return Objective(self.name, "fraction", "higher", self.description)
