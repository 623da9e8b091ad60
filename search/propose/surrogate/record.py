"""What the study knows, as the quality model wants it: by set of weights, read from Optuna's trials once each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from objectives.measurement import Measurement
from search.front.outcome import LATENCY, LOSS, Target
from search.propose.pool import Grid
from search.propose.study import OUTCOME, PARAMS
from search.propose.surrogate.quality import Seen
from search.space.deployments import Deployment
from search.space.space import PRECISION, RUNTIME
from spaces.knob import Value

Settings = Mapping[str, Value]


@dataclass
class Weights:
    """One set of weights: its settings, what was measured of it, and whether it is on its way."""

    settings: dict[str, Value]
    row: tuple[int, ...] | None  # in the grid; None where it has no such settings (the uncompressed model, often)
    quality: dict[Deployment, float] = field(default_factory=dict)
    costs: dict[Deployment, float] = field(default_factory=dict)  # log ms, measured
    errors: dict[Deployment, float] = field(
        default_factory=dict
    )  # of quality, against the uncompressed model's on the rows
    kept: set[Deployment] = field(default_factory=set)  # deployments inside the limits
    pending: bool = False

    @property
    def error(self) -> float:
        """Standard error of its quality where it is known best, against the uncompressed model's on the same rows."""
        return min(self.errors.values(), default=0.0)

    @property
    def points(self) -> list[tuple[float, float]]:
        """(log ms, quality) of what may be on the front."""
        return [
            (self.costs[deployment], self.quality[deployment]) for deployment in self.kept if deployment in self.costs
        ]


class Record:
    """The study's trials by set of weights. `refresh` reads those that are new or still run.

    Args:
        grid: over the knobs that determine weights (all but runtime and precision).
        quality: the target that is learnt; qualities are kept with "higher is better".
        canonical: settings to the one way of writing them.
    """

    def __init__(
        self,
        grid: Grid,
        off: Settings,
        quality: Target,
        canonical: Callable[[Settings], Settings] = dict,
    ) -> None:
        self._grid, self._off, self._quality = grid, dict(off), quality
        self._canonical = canonical
        self._sign = 1.0 if quality.better == "higher" else -1.0
        self._finished: set[int] = set()
        self._weights: dict[tuple[Value, ...], Weights] = {}
        self.baseline: Weights | None = None
        self.state: object = None  # equal as long as nothing new is known

    def refresh(self, study: optuna.Study, but: int | None = None) -> Sequence[Weights]:
        """All weights the study knows; trial number `but`, which is being asked for, left out."""
        for one in self._weights.values():
            one.pending = False
        for trial in study.get_trials(deepcopy=False):
            if trial.number == but or trial.number in self._finished:
                continue
            if trial.state.is_finished():
                self._finished.add(trial.number)
            self._read(trial)
        known = list(self._weights.values())
        on_their_way = tuple(one.row for one in known if one.pending)
        self.state = (len(self._finished), on_their_way)
        return known

    def seen(self, one: Weights) -> Seen:
        return Seen(self.features(one), dict(one.quality), one.error)

    def features(self, one: Weights) -> tuple[float, ...]:
        """Of weights that the grid holds."""
        assert one.row is not None
        return tuple(self._grid.features(np.array([one.row]))[0].tolist())

    @property
    def origin(self) -> tuple[float, ...]:
        """Features of settings that compress nothing, or as little as the grid allows."""
        return tuple(self._grid.features(self._grid.nearest(self._off)[None])[0].tolist())

    def of(self, settings: Settings) -> Weights | None:
        """The weights of these settings, if the study has met them."""
        return self._weights.get(self._key(settings))

    def _key(self, settings: Settings) -> tuple[Value, ...]:
        full = self._canonical({**self._off, **settings})
        return tuple(full[name] for name in self._grid.values)

    def _read(self, trial: FrozenTrial) -> None:
        settings = trial.user_attrs.get(PARAMS)
        outcome = trial.user_attrs.get(OUTCOME)
        if settings is None or (outcome is None and trial.state.is_finished()):  # nothing came of it
            return
        one = self._met(settings)
        if outcome is None:
            one.pending = True
            return
        self._take(one, outcome, Deployment(str(settings[RUNTIME]), str(settings[PRECISION])))

    def _met(self, settings: Settings) -> Weights:
        key = self._key(settings)
        if key not in self._weights:
            named = dict(zip(self._grid.values, key, strict=True))
            row = tuple(self._grid.indices(named).tolist()) if self._grid.holds(named) else None
            self._weights[key] = Weights(named, row)
        return self._weights[key]

    def _take(self, one: Weights, outcome: Mapping[str, Any], deployment: Deployment) -> None:
        if outcome["baseline"]:
            self.baseline = one
        if outcome["status"] != "complete":
            return
        found = {name: Measurement.from_json(m) for name, m in outcome["measurements"].items()}
        quality = found[self._quality.objective]
        one.quality[deployment] = self._sign * quality.value
        if LOSS in found:
            one.errors[deployment] = standard_error(found[LOSS]) / 100  # it is in points
        one.costs[deployment] = math.log(found[LATENCY].value)
        if not outcome["limits_broken"]:
            one.kept.add(deployment)


def standard_error(measured: Measurement) -> float:
    """Of a normal value with this 95 % interval."""
    low, high = measured.interval
    return (high - low) / (2 * 1.96)
