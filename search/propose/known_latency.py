"""The sampler "known-latency": latency is predicted before training, so only quality is uncertain.

It proposes the weights with the largest expected hypervolume improvement, over all deployments they would be measured
under, per expected second of training and measuring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from search.propose.pool import Grid, GridIndices
from search.propose.surrogate.surrogate import Surrogate
from search.space.deployments import is_of_deployment
from search.space.space import Space
from spaces.knob import Value

POOL = 2048
#: Fewest sets of weights with a measured quality for the model; before that, proposals are random.
FEWEST_WEIGHTS = 3


class KnownLatency(BaseSampler):
    """The sampler as an Optuna sampler, so that Optuna's storage, plots and dashboard work with its trials."""

    def __init__(
        self, space: Space, distributions: Mapping[str, BaseDistribution], surrogate: Surrogate, seed: int
    ) -> None:
        self._space, self._surrogate = space, surrogate
        self._distributions = dict(distributions)
        self._grid = weights_grid(space)
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self.last: float = np.inf  # expected improvement of the last proposal, in log ms times quality

    def reseed_rng(self) -> None:
        self._rng = np.random.default_rng()
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.last = np.inf
        if not search_space:
            return {}
        self._surrogate.refresh(study, trial.number)
        ready = self._surrogate.bounded and self._surrogate.trained >= FEWEST_WEIGHTS
        if not ready or not len(self._grid.counts):
            return {}
        rows, pool = self._candidates()
        if not pool:
            return {}
        together, alone = self._surrogate.improvement(pool, self._grid.features(rows))
        best = int(np.argmax(together / self._surrogate.seconds(pool)))
        self.last = float(together[best])
        deployment = self._surrogate.deployments[int(np.argmax(alone[best]))]
        chosen = self._space.projected({**self._space.complete(pool[best]), **deployment.settings})
        return {name: chosen[name] for name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _candidates(self) -> tuple[GridIndices, list[dict[str, Value]]]:
        """Rows of the grid that no trial has, with their settings."""
        columns = len(self._grid.counts)
        on_front = [weights.row for weights in self._surrogate.on_front if weights.row is not None]
        good = on_front or [
            weights.row for weights in self._surrogate.weights if weights.quality and weights.row is not None
        ]
        rows = self._grid.pool(np.array(good, dtype=np.int64).reshape(-1, columns), POOL, self._rng)
        full = [{**self._space.off, **settings} for settings in self._surrogate.stored_settings]
        stored = [self._grid.indices(settings) for settings in full if self._grid.holds(settings)]
        rows = np.unique(np.concatenate([rows, np.array(stored, dtype=np.int64).reshape(-1, columns)]), axis=0)
        pool = [self._grid.settings(row) for row in rows]
        new = [i for i, settings in enumerate(pool) if self._surrogate.find(settings) is None]
        return rows[new], [pool[i] for i in new]


class GainForecast:
    """The expected gain of the sampler's next trial.

    Args:
        least_gain: the search ends when the next trial is expected to add less than this share of the hypervolume.
    """

    def __init__(self, surrogate: Surrogate, sampler: KnownLatency, least_gain: float) -> None:
        self._surrogate, self._sampler, self._least_gain = surrogate, sampler, least_gain

    @property
    def gain(self) -> float | None:
        """The expected gain as a share of the hypervolume; None where it cannot be predicted."""
        expected, area = self._sampler.last, self._surrogate.measured_front.area
        return expected / area if math.isfinite(expected) and area else None

    @property
    def enough(self) -> bool:
        """Whether the expected gain is below `least_gain`."""
        gain = self.gain
        return gain is not None and gain < self._least_gain


def weights_grid(space: Space) -> Grid:
    """The grid of the knobs that determine weights: all searched ones but runtime, precision and cache."""
    return Grid({name: knob for name, knob in space.searched.items() if not is_of_deployment(name)})
