"""The study's trials grouped by set of weights, as the quality model needs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from objectives.measurement import Measurement
from objectives.metric import Metric
from objectives.quality import metric_named
from search.front.outcome import LATENCY, LOSS, Target
from search.propose.pool import Grid
from search.propose.study import OUTCOME, PARAMS
from search.propose.surrogate.quality import QualityObservation
from search.space.deployments import Deployment
from spaces.knob import Settings, Value


@dataclass
class WeightsRecord:
    """One set of weights: its settings, its measurements by deployment, and whether a trial of it still runs."""

    settings: dict[str, Value]
    row: tuple[int, ...] | None  # in the grid; None outside it (often the uncompressed model)
    quality: dict[Deployment, float] = field(default_factory=dict)
    costs: dict[Deployment, float] = field(default_factory=dict)  # log ms, measured
    errors: dict[Deployment, float] = field(
        default_factory=dict
    )  # standard errors of the quality less the uncompressed model's, on the same rows
    feasible: set[Deployment] = field(default_factory=set)  # deployments that keep the limits
    pending: bool = False

    @property
    def error(self) -> float:
        """The smallest standard error over its deployments."""
        return min(self.errors.values(), default=0.0)

    @property
    def points(self) -> list[tuple[float, float]]:
        """(log ms, quality) of every deployment that keeps the limits."""
        return [
            (self.costs[deployment], self.quality[deployment])
            for deployment in self.feasible
            if deployment in self.costs
        ]


class StudyHistory:
    """The study's trials by set of weights. `refresh` reads the trials that are new or were still running.

    Args:
        grid: over the knobs that determine weights (all but runtime, precision and cache).
        off: settings of the uncompressed model.
        quality: the target that the model learns; its values are stored as `Metric.utility`.
        canonical: maps settings to their canonical form.
        time: name of the time that costs are of.
    """

    def __init__(
        self,
        grid: Grid,
        off: Settings,
        quality: Target,
        canonical: Callable[[Settings], Settings] = dict,
        time: str = LATENCY,
    ) -> None:
        self._grid, self._off, self._quality = grid, dict(off), quality
        self._canonical, self._time = canonical, time
        self._metric = metric_named(quality.objective)
        self._finished: set[int] = set()
        self._weights: dict[tuple[Value, ...], WeightsRecord] = {}
        self.baseline: WeightsRecord | None = None
        self.state: object = None  # unchanged as long as no trial is new or ends

    def refresh(self, study: optuna.Study, excluding: int | None = None) -> Sequence[WeightsRecord]:
        """All weights of the study, without trial number `excluding` (the one being asked for)."""
        for weights in self._weights.values():
            weights.pending = False
        for trial in study.get_trials(deepcopy=False):
            if trial.number == excluding or trial.number in self._finished:
                continue
            if trial.state.is_finished():
                self._finished.add(trial.number)
            self._read(trial)
        records = list(self._weights.values())
        self.state = (len(self._finished), tuple(weights.row for weights in records if weights.pending))
        return records

    def observation(self, weights: WeightsRecord) -> QualityObservation:
        """The measured quality of weights that the grid holds."""
        return QualityObservation(self.features(weights), dict(weights.quality), weights.error)

    def features(self, weights: WeightsRecord) -> tuple[float, ...]:
        """Features of weights that the grid holds."""
        assert weights.row is not None
        return tuple(self._grid.features(np.array([weights.row]))[0].tolist())

    @property
    def origin(self) -> tuple[float, ...]:
        """Features of the grid's row nearest to the uncompressed model."""
        return tuple(self._grid.features(self._grid.nearest(self._off)[None])[0].tolist())

    def find(self, settings: Settings) -> WeightsRecord | None:
        """The record of the weights of these settings; None where no trial has them."""
        return self._weights.get(self._key(settings))

    def _key(self, settings: Settings) -> tuple[Value, ...]:
        full = self._canonical({**self._off, **settings})
        return tuple(full[name] for name in self._grid.values)

    def _read(self, trial: FrozenTrial) -> None:
        settings = trial.user_attrs.get(PARAMS)
        outcome = trial.user_attrs.get(OUTCOME)
        if settings is None or (outcome is None and trial.state.is_finished()):  # ended without an outcome
            return
        weights = self._find_or_add(settings)
        if outcome is None:
            weights.pending = True
            return
        self._add_outcome(weights, outcome, Deployment.of(settings))

    def _find_or_add(self, settings: Settings) -> WeightsRecord:
        key = self._key(settings)
        if key not in self._weights:
            named = dict(zip(self._grid.values, key, strict=True))
            row = tuple(self._grid.indices(named).tolist()) if self._grid.holds(named) else None
            self._weights[key] = WeightsRecord(named, row)
        return self._weights[key]

    def _add_outcome(self, weights: WeightsRecord, outcome: Mapping[str, Any], deployment: Deployment) -> None:
        if outcome["baseline"]:
            self.baseline = weights
        if outcome["status"] != "complete":
            return
        measurements = {name: Measurement.from_json(m) for name, m in outcome["measurements"].items()}
        quality = measurements[self._quality.objective]
        weights.quality[deployment] = self._metric.utility(quality.value)
        if LOSS in measurements:
            weights.errors[deployment] = standard_error(measurements[LOSS], self._metric)
        weights.costs[deployment] = math.log(measurements[self._time].value)
        if not outcome["limits_broken"]:
            weights.feasible.add(deployment)


def standard_error(loss: Measurement, metric: Metric) -> float:
    """Standard error of the lost utility, from the 95 % interval of a loss under a normal distribution."""
    low, high = (metric.drop(end) for end in loss.interval)
    return (high - low) / (2 * 1.96)
