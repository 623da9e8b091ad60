"""Predictions for recipes before they are built: a time from the table, quality from the model, and their gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import optuna

from objectives.arrays import Floats
from search.front.outcome import Target
from search.propose.surrogate.history import StudyHistory, WeightsRecord
from search.propose.surrogate.improvement import Staircase, expected_improvement
from search.propose.surrogate.quality import Offset, QualityModel
from search.space.deployments import Deployment
from search.space.space import Params

#: The hypervolume's reference latency, as a multiple of that of the uncompressed model under eager fp32.
SLOWEST = 1.1


class CostModel(Protocol):
    """Latency and cost of a recipe before it is built."""

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """The deployments that a set of weights is measured under."""
        ...

    def costs(self, pool: Sequence[Params]) -> tuple[Floats, Floats]:
        """(N, P) log ms by deployment, infinite where a limit excludes it, and (N,) their common standard error."""
        ...

    def seconds(self, pool: Sequence[Params]) -> Floats:
        """(N,) expected seconds of training and measuring these weights."""
        ...

    @property
    def stored_settings(self) -> Sequence[Params]:
        """Settings whose weights are in the store."""
        ...


@dataclass(frozen=True)
class Aims:
    """The learnt target, the reference of the hypervolume, and the limits; qualities are `Metric.utility`.

    Args:
        constant_guess: quality of a constant guess (the most frequent class).
        keep: share of the uncompressed model's quality above the constant guess that a candidate needs to add
            hypervolume.
        max_log_latency: log ms that the limit of the time allows that is an objective.
        min_quality: the limit of quality.
        max_loss: the limit of the loss of quality against the uncompressed model.
    """

    quality: Target
    constant_guess: float
    keep: float = 0.0
    max_log_latency: float = np.inf
    min_quality: float = -np.inf
    max_loss: float = np.inf

    def reference(self, baseline: WeightsRecord | None) -> tuple[float, float]:
        """(log ms, quality) of the hypervolume's reference point.

        The latency is `SLOWEST` times the uncompressed model's under eager fp32, or the limit if that is lower; the
        quality is the one that `keep` asks for.
        """
        if baseline is None or not baseline.costs:
            return self.max_log_latency, self.constant_guess
        eager = baseline.costs.get(Deployment("eager", "fp32"), max(baseline.costs.values()))
        log_ms = min(self.max_log_latency, math.log(SLOWEST) + eager)
        above_guess = max(0.0, max(baseline.quality.values()) - self.constant_guess)
        return log_ms, self.constant_guess + self.keep * above_guess

    def quality_threshold(self, baseline: WeightsRecord | None) -> float:
        """Quality below which a limit excludes a candidate."""
        if baseline is None or not baseline.quality:
            return self.min_quality
        return max(self.min_quality, max(baseline.quality.values()) - self.max_loss)


class Surrogate:
    """Predicted quality, latency and improvement of candidates; refitted when the study has new trials."""

    def __init__(self, history: StudyHistory, cost_model: CostModel, model: QualityModel, aims: Aims) -> None:
        self._history, self._cost_model, self._model, self._aims = history, cost_model, model, aims
        self._weights: Sequence[WeightsRecord] = ()
        self._state: object = None  # of the history at the last fit
        self.measured_front = self._front = Staircase.of((), aims.reference(None))
        self.min_quality, self.target = aims.min_quality, aims.quality

    def refresh(self, study: optuna.Study, excluding: int | None = None) -> None:
        """Fit to the study's trials, without trial number `excluding`.

        Running trials are given their expected outcome (the kriging believer; Ginsbourger et al. 2010).
        """
        self._weights = self._history.refresh(study, excluding)
        if self._history.state == self._state:
            return
        self._state = self._history.state
        baseline = self._history.baseline
        reference, self.min_quality = self._aims.reference(baseline), self._aims.quality_threshold(baseline)
        best = max(baseline.quality.values(), default=1.0) if baseline else 1.0
        in_grid = [weights for weights in self._weights if weights.row is not None]
        observations = [self._history.observation(one) for one in in_grid if one.quality]
        self._model.learn(observations, self._aims.constant_guess, best, self._history.origin)
        points = [point for one in self._weights for point in one.points]
        self.measured_front = Staircase.of(points, reference)
        for weights in in_grid:
            if weights.pending:
                points += self._expected_points(weights)
        self._front = Staircase.of(points, reference)

    @property
    def bounded(self) -> bool:
        """Whether the hypervolume's reference has a latency: from a limit, or from the uncompressed model."""
        return math.isfinite(self.measured_front.end)

    @property
    def weights(self) -> Sequence[WeightsRecord]:
        """All sets of weights of the study."""
        return self._weights

    @property
    def trained(self) -> int:
        """The number of sets of weights with a measured quality."""
        return sum(bool(one.quality) for one in self._weights)

    def find(self, settings: Params) -> WeightsRecord | None:
        """The record of the weights of these settings; None where no trial has them."""
        return self._history.find(settings)

    @property
    def on_front(self) -> list[WeightsRecord]:
        """Weights with a measured point on the front."""
        steps = set(zip(self.measured_front.start[1:].tolist(), self.measured_front.height[1:].tolist(), strict=True))
        return [one for one in self._weights if steps & set(one.points)]

    def improvement(self, pool: Sequence[Params], features: Floats) -> tuple[Floats, Floats]:
        """(N,) expected hypervolume improvements over all deployments together, and (N, P) by single deployment."""
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
        """(N,) expected seconds of training and measuring these weights."""
        return self._cost_model.seconds(pool)

    @property
    def stored_settings(self) -> Sequence[Params]:
        """Settings whose weights are in the store."""
        return self._cost_model.stored_settings

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """The deployments that a set of weights is measured under."""
        return self._cost_model.deployments

    def quality(self, weights: WeightsRecord) -> tuple[float, float]:
        """(mean, standard deviation) of the predicted quality of these weights."""
        mean, sd = self._model.predict([self._history.features(weights)])
        return float(mean[0]), float(sd[0])

    def offset(self, weights: WeightsRecord, deployment: Deployment) -> float:
        """Quality under a deployment minus that of the weights; for weights outside the grid without the slopes."""
        if weights.row is None:
            return self._model.offsets.get(deployment, Offset()).base
        return float(self._model.offset(deployment, np.array([self._history.features(weights)]))[0])

    def costs(self, weights: WeightsRecord) -> tuple[Floats, float]:
        """((P,) log ms by deployment, their common standard error)."""
        costs, error = self._cost_model.costs([weights.settings])
        return costs[0], float(error[0])

    def _expected_points(self, weights: WeightsRecord) -> list[tuple[float, float]]:
        mean, _ = self.quality(weights)
        costs, _ = self.costs(weights)
        return [
            (float(cost), mean + self.offset(weights, deployment))
            for cost, deployment in zip(costs, self.deployments, strict=True)
            if np.isfinite(cost)
        ]
