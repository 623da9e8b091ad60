"""Samplers by name. A new one is a function, a line in `SAMPLERS`, and its name in `search.config.schema`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from search.config.schema import SAMPLER_NAMES as NAMES
from search.propose.known_latency import KnownLatency
from search.propose.study import distribution
from search.propose.surrogate.surrogate import Surrogate
from search.space.space import Space


def _known_latency(seed: int, space: Space, surrogate: Surrogate | None) -> BaseSampler:
    if surrogate is None:
        return _tpe(seed, space, surrogate)

    return KnownLatency(space, {name: distribution(knob) for name, knob in space.searched.items()}, surrogate, seed)


def _tpe(seed: int, space: Space, surrogate: Surrogate | None) -> BaseSampler:
    # Multivariate, because how far one axis can go depends on the others; few startup trials, because the
    # baselines and anchors have been told already.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of `multivariate` and `group`
        return TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=8)


def _nsga2(seed: int, space: Space, surrogate: Surrogate | None) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=16)


def _gp(seed: int, space: Space, surrogate: Surrogate | None) -> BaseSampler:
    return GPSampler(seed=seed, n_startup_trials=8)


def _random(seed: int, space: Space, surrogate: Surrogate | None) -> BaseSampler:
    return RandomSampler(seed=seed)


#: (seed, space, surrogate or None where quality and latency are not what is searched for) -> sampler. The first is the
#: default; without a surrogate it is TPE.
SAMPLERS: Mapping[str, Callable[[int, Space, Surrogate | None], BaseSampler]] = {
    "known-latency": _known_latency,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "gp": _gp,
    "random": _random,
}
assert tuple(SAMPLERS) == NAMES, "the configuration knows every sampler"
