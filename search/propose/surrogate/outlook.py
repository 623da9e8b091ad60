"""What is known of recipes before they are built: latency from the table, quality from the model, the front so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import optuna
from numpy.typing import NDArray

from search.front.outcome import Target
from search.propose.surrogate.improvement import Staircase, expected_improvement
from search.propose.surrogate.quality import Offset, QualityModel
from search.propose.surrogate.record import Record, Weights
from search.space.deployments import Deployment
from search.space.space import Params

Floats = NDArray[np.float64]

#: The hypervolume's reference: so many times the latency of the uncompressed model as it came.
SLOWEST = 1.1


class CostModel(Protocol):
    """What is known of a recipe before it is built."""

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Runtime and precision that a set of weights is measured under."""
        ...

    def costs(self, pool: Sequence[Params]) -> tuple[Floats, Floats]:
        """(N, P) log ms by deployment, infinite where a limit forbids it, and (N,) their common error."""
        ...

    def seconds(self, pool: Sequence[Params]) -> Floats:
        """(N,) expected seconds of finding out the quality of these weights."""
        ...

    @property
    def stored_settings(self) -> Sequence[Params]:
        """Settings whose weights are at hand."""
        ...


@dataclass(frozen=True)
class Aims:
    """What counts: the learnt target, where the hypervolume begins, and the limits.

    floor: quality without a model (of the most frequent class). keep: of what the uncompressed model has above that,
    the share that a candidate must keep to count. latest: log ms that a limit allows. least: quality that a limit
    demands; most_lost: how much less than the uncompressed model's it allows.
    """

    quality: Target
    floor: float
    keep: float = 0.0
    max_log_latency: float = np.inf
    min_quality: float = -np.inf
    most_lost: float = np.inf

    def reference(self, baseline: Weights | None) -> tuple[float, float]:
        """(log ms, quality): 1.1 times the uncompressed model's latency as it came, or the limit; and what is kept."""
        if baseline is None or not baseline.costs:
            return self.max_log_latency, self.floor
        eager = [
            cost for (runtime, precision), cost in baseline.costs.items() if (runtime, precision) == ("eager", "fp32")
        ]
        latest = min(self.max_log_latency, math.log(SLOWEST) + max(eager or baseline.costs.values()))
        return latest, self.floor + self.keep * max(0.0, max(baseline.quality.values()) - self.floor)

    def quality_threshold(self, baseline: Weights | None) -> float:
        """Quality under which a candidate counts as nothing."""
        if baseline is None or not baseline.quality:
            return self.min_quality
        return max(self.min_quality, max(baseline.quality.values()) - self.most_lost)


class Outlook:
    """What the study, the table and the model say together; made anew at each ask."""

    def __init__(self, record: Record, cost_model: CostModel, model: QualityModel, aims: Aims) -> None:
        self._record, self._cost_model, self._model, self._aims = record, cost_model, model, aims
        self._known: Sequence[Weights] = ()
        self._looked_at: object = None
        self.measured = self._front = Staircase.of((), aims.reference(None))
        self.min_quality, self.target = aims.min_quality, aims.quality

    def look(self, study: optuna.Study, but: int | None = None) -> None:
        """Learn from the study; what runs is believed to turn out as expected (Ginsbourger et al. 2010)."""
        self._known = self._record.refresh(study, but)
        if self._record.state == self._looked_at:
            return
        self._looked_at = self._record.state
        baseline = self._record.baseline
        reference, self.min_quality = self._aims.reference(baseline), self._aims.quality_threshold(baseline)
        best = max(baseline.quality.values(), default=1.0) if baseline else 1.0
        placed = [one for one in self._known if one.row is not None]
        learnt = (self._record.seen(one) for one in placed if one.quality)
        self._model.learn(learnt, self._aims.floor, best, self._record.origin)
        points = [point for one in self._known for point in one.points]
        self.measured = Staircase.of(points, reference)
        for one in (one for one in placed if one.pending):
            points += self._believed(one)
        self._front = Staircase.of(points, reference)

    @property
    def bounded(self) -> bool:
        """Whether there is a latency up to which a front counts: a limit, or that of the uncompressed model."""
        return math.isfinite(self.measured.end)

    @property
    def known(self) -> Sequence[Weights]:
        return self._known

    @property
    def trained(self) -> int:
        """How many sets of weights were measured in full."""
        return sum(bool(one.quality) for one in self._known)

    def of(self, settings: Params) -> Weights | None:
        return self._record.of(settings)

    @property
    def best(self) -> list[Weights]:
        """Weights with a point on the front, as it is without what is only believed."""
        steps = set(zip(self.measured.start[1:].tolist(), self.measured.height[1:].tolist(), strict=True))
        return [one for one in self._known if steps & set(one.points)]

    def improvement(self, pool: Sequence[Params], features: Floats) -> tuple[Floats, Floats]:
        """(N,) expected improvements over all deployments, and (N, P) by deployment alone."""
        mean, sd = self._model.predict(features)
        costs, error = self._cost_model.costs(pool)
        offsets = np.stack(
            [self._model.offset(deployment, features) for deployment in self._cost_model.deployments], axis=1
        )
        rest = (error, self._front, self.min_quality)
        together = expected_improvement(mean, sd, costs, rest[0], offsets, *rest[1:])
        alone = [
            expected_improvement(mean, sd, costs[:, [p]], rest[0], offsets[:, [p]], *rest[1:])
            for p in range(offsets.shape[1])
        ]
        return together, np.stack(alone, axis=1)

    def seconds(self, pool: Sequence[Params]) -> Floats:
        return self._cost_model.seconds(pool)

    @property
    def stored_settings(self) -> Sequence[Params]:
        return self._cost_model.stored_settings

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        return self._cost_model.deployments

    def quality(self, one: Weights) -> tuple[float, float]:
        """(mean, sd) of the quality of weights that were not measured in full."""
        mean, sd = self._model.predict([self._record.features(one)])
        return float(mean[0]), float(sd[0])

    def offset(self, one: Weights, deployment: Deployment) -> float:
        """Quality under a deployment less that of the weights. The plane says nothing beyond the grid."""
        if one.row is None:
            return self._model.offsets.get(deployment, Offset()).base
        return float(self._model.offset(deployment, np.array([self._record.features(one)]))[0])

    def costs(self, one: Weights) -> tuple[Floats, float]:
        """((P,) log ms by deployment, their common error)."""
        costs, error = self._cost_model.costs([one.settings])
        return costs[0], float(error[0])

    def _believed(self, one: Weights) -> list[tuple[float, float]]:
        mean, _ = self.quality(one)
        costs, _ = self.costs(one)
        return [
            (float(cost), mean + self.offset(one, deployment))
            for cost, deployment in zip(costs, self.deployments, strict=True)
            if np.isfinite(cost)
        ]
