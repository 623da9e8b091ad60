"""The sampler for this problem: latency is known before training, so only quality is modelled.

Asks for the weights with the largest expected hypervolume improvement, over all deployments they
would be measured under, for each second that finding out is expected to take.
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

from search.propose.pool import Grid, Indices
from search.propose.surrogate.outlook import Outlook
from search.space.space import PRECISION, RUNTIME, Space
from spaces.knob import Value

POOL = 2048
#: Weights that must be known in full before the model is asked; until then draws are random.
LEAST = 3


class KnownLatency(BaseSampler):
    """Optuna's interface to the outlook. Optuna's storage, plots and dashboard see ordinary trials."""

    def __init__(
        self, space: Space, distributions: Mapping[str, BaseDistribution], outlook: Outlook, seed: int
    ) -> None:
        self._space, self._outlook = space, outlook
        self._distributions = dict(distributions)
        self._grid = weights_grid(space)
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self.last: float = np.inf  # the improvement that the last ask expected, in log ms times quality

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
        self._outlook.look(study, trial.number)
        ready = self._outlook.bounded and self._outlook.trained >= LEAST
        if not ready or not len(self._grid.counts):
            return {}
        rows, pool = self._candidates()
        if not pool:
            return {}
        together, alone = self._outlook.improvement(pool, self._grid.features(rows))
        best = int(np.argmax(together / self._outlook.seconds(pool)))
        self.last = float(together[best])
        runtime, precision = self._outlook.deployments[int(np.argmax(alone[best]))]
        chosen = {**self._space.complete(pool[best]), RUNTIME: runtime, PRECISION: precision}
        return {name: chosen[name] for name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _candidates(self) -> tuple[Indices, list[dict[str, Value]]]:
        """Rows of the grid that the study has not met, with their settings."""
        columns = len(self._grid.counts)
        best = [one.row for one in self._outlook.best if one.row is not None]
        good = best or [one.row for one in self._outlook.known if one.quality and one.row is not None]
        rows = self._grid.pool(np.array(good, dtype=np.int64).reshape(-1, columns), POOL, self._rng)
        full = [{**self._space.off, **settings} for settings in self._outlook.stored_settings]
        made = [self._grid.indices(settings) for settings in full if self._grid.holds(settings)]
        rows = np.unique(np.concatenate([rows, np.array(made, dtype=np.int64).reshape(-1, columns)]), axis=0)
        pool = [self._grid.settings(row) for row in rows]
        new = [i for i, settings in enumerate(pool) if self._outlook.of(settings) is None]
        return rows[new], [pool[i] for i in new]


class Forecast:
    """What the sampler's next trial is expected to add to the front.

    Args:
        least_gain: a trial that is expected to add less than this share of the hypervolume is not begun.
    """

    def __init__(self, outlook: Outlook, sampler: KnownLatency, least_gain: float) -> None:
        self._outlook, self._sampler, self._least_gain = outlook, sampler, least_gain

    @property
    def gain(self) -> float | None:
        """As a share of the hypervolume; None where nothing says."""
        expected, area = self._sampler.last, self._outlook.measured.area
        return expected / area if math.isfinite(expected) and area else None

    @property
    def enough(self) -> bool:
        """Whether too little is expected of another trial."""
        gain = self.gain
        return gain is not None and gain < self._least_gain


def weights_grid(space: Space) -> Grid:
    """The knobs that determine weights: all that have a choice but runtime and precision."""
    return Grid({name: knob for name, knob in space.searched.items() if name not in (RUNTIME, PRECISION)})
