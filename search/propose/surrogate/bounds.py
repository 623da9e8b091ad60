"""What weights can become at best, and so whether they can still reach the front."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from search.propose.surrogate.improvement import expected_improvement
from search.propose.surrogate.outlook import Outlook
from search.propose.surrogate.record import Weights
from spaces.knob import Knob

#: Standard errors between what is expected and what is held for possible.
SURE = 2.0
#: Weights recovered in full before what is learnt from them may reject others.
FEWEST = 8
#: Trained weights of more capacity may be beaten by so many times the noise of a quality: luck of training and of rows.
LUCK = 3.0


class Bounds:
    """Upper bounds of quality, from the model, lower rungs and less compressed relatives, held against the front.

    Args:
        knobs: those that determine weights, by name.
    """

    def __init__(self, outlook: Outlook, knobs: Mapping[str, Knob]) -> None:
        self._outlook, self._knobs = outlook, dict(knobs)

    def verdict(self, one: Weights) -> str:
        """Why these weights cannot reach the front, or "". `outlook.look` comes before."""
        if not self._outlook.bounded:
            return ""
        costs, error = self._outlook.costs(one)
        reachable = np.isfinite(costs)
        if not reachable.any():
            fastest = math.exp(float(self._outlook.predicted(one).min()))
            return f"no runtime and precision keeps the limits; {fastest:.2f} ms is predicted of the fastest"
        bound = self.at_most(one)
        if not math.isfinite(bound) or self._gain(one, bound, 0.0, costs - SURE * error, 0.0) > 0:
            return ""
        fastest = math.exp(float(costs[reachable].min()))
        return f"at most {100 * bound:.1f} % is expected of it, at {fastest:.2f} ms: that adds nothing to the front"

    def expected(self, one: Weights) -> float:
        """Expected improvement of the front as it was measured, in log ms times quality; infinite without an end."""
        if not self._outlook.bounded:
            return math.inf
        return self._gain(one, *self._outlook.quality(one), *self._outlook.costs(one))

    def at_most(self, one: Weights) -> float:
        """The best quality that may be measured of the weights; infinite where nothing is known.

        The front is of measured qualities, so the noise of a measurement counts beside the doubt of the model.
        """
        bounds, noise = [], self._outlook.noise
        if self._outlook.trained >= FEWEST:
            mean, sd = self._outlook.quality(one)
            bounds.append(mean + SURE * math.hypot(sd, noise))
        if one.rungs:
            line = self._outlook.lines.get(max(one.rungs))
            if line is not None and line.count >= FEWEST:
                mean, sd = line.at(one.rungs[max(one.rungs)])
                bounds.append(mean + SURE * sd)
        for other in self._outlook.known:
            if other.quality and other is not one and self._less_compressed(other, one):
                own = max(
                    value - self._outlook.offset(other, deployment) for deployment, value in other.quality.items()
                )
                bounds.append(own + LUCK * noise)
        return min(bounds, default=math.inf)

    def _gain(self, one: Weights, mean: float, sd: float, costs: NDArray[np.float64], error: float) -> float:
        outlook = self._outlook
        offsets = np.array([[outlook.offset(one, deployment) for deployment in outlook.deployments]])
        mean_, sd_, error_ = (np.array([value]) for value in (mean, sd, error))
        found = expected_improvement(mean_, sd_, costs[None], error_, offsets, outlook.measured, outlook.min_quality)
        return float(found[0])

    def _less_compressed(self, other: Weights, one: Weights) -> bool:
        """Whether every knob of `other` is at least as near to off, ways of working being the same."""
        for name, knob in self._knobs.items():
            theirs, ours = other.settings[name], one.settings[name]
            if theirs == ours:
                continue
            if not knob.ordered or knob.method:
                return False
            off = float(knob.off)
            if abs(float(theirs) - off) > abs(float(ours) - off):
                return False
        return True
