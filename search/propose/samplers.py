"""Samplers by name. A new one is a function and a line in `SAMPLERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler


def _tpe(seed: int) -> BaseSampler:
    # Multivariate, because how far one axis can go depends on the others; few startup trials, because the
    # baselines and anchors have been told already.
    return TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=8)


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=16)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, n_startup_trials=8)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "gp": _gp,
    "random": _random,
}
