"""A model of the quality of a recipe after recovery, fitted to the recipes that were recovered.

A Gaussian process (Matern 5/2, one length scale an input; Rasmussen & Williams 2006, chapters 2, 4 and 5) models the
quality of *weights*. Its inputs are the settings, and the value of a mean function with few coefficients: quality falls
from the uncompressed model's towards that of a constant guess, and the losses of the settings add up, or grow faster
than their sum. With ten sets of weights and five settings the process alone interpolates badly and cannot extrapolate.
A deployment adds an offset of its own, a plane over the settings: a low precision costs a small model more than a large
one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import nnls

from objectives.arrays import Floats
from objectives.gaussian_process import GaussianProcess, Priors, fit_process
from search.space.deployments import Deployment

#: Standard deviation of the quality between two seeds of one training; predictions are never more certain.
SEED_NOISE = 0.003
#: Normal priors (mean, standard deviation) of the logarithms of the kernel's amplitude, length scales and noise. The
#: inputs are between 0 and 1, so quality changes about once over a setting's range.
AMPLITUDE_PRIOR, LENGTH_PRIOR, NOISE_PRIOR = (0.0, 1.0), (0.5, 1.0), (float(np.log(0.01)), 2.0)
#: Powers of a setting's distance from the uncompressed model in the mean function, and the ridge of its coefficients.
POWERS, COEFFICIENT_RIDGE = (1, 2, 3), 0.3
#: Candidates for the exponent of the summed losses. Above 1 they grow faster than their sum: a model that one axis has
#: compressed already loses more by the next.
EXPONENTS = (1.0, 1.5, 2.0)
#: Hyperparameters are fitted again when there are this many times more observations.
REFIT = 1.2


@dataclass(frozen=True)
class QualityObservation:
    """The measured quality of one set of weights."""

    features: tuple[float, ...]
    quality: Mapping[Deployment, float] = field(default_factory=dict)
    #: Standard error of the quality minus the uncompressed model's on the same rows. The sampling error that both share
    #: is no noise here, because all observations and predictions are of the same rows.
    error: float = 0.0


@dataclass(frozen=True)
class Offset:
    """Quality under one deployment minus that of the reference deployment, as a plane over the settings."""

    base: float = 0.0
    slopes: Floats = field(default_factory=lambda: np.zeros(0))  # (D,); empty for a constant offset
    middle: Floats = field(default_factory=lambda: np.zeros(0))  # (D,)

    @classmethod
    def fitted(cls, features: Floats, differences: Floats) -> Offset:
        """Ridge regression (Hoerl & Kennard 1970): every coefficient is shrunk towards 0 with a ridge of 1.

        Args:
            features: (N, D) of weights that were measured under both deployments.
            differences: (N,) between the two.
        """
        middle = features.mean(0) if len(features) else np.zeros(features.shape[1])
        design = np.column_stack([np.ones(len(features)), features - middle])
        solved = np.linalg.solve(design.T @ design + np.eye(design.shape[1]), design.T @ differences)
        return cls(float(solved[0]), solved[1:], middle)

    def at(self, features: Floats) -> Floats:
        """(N,) offsets of weights with (N, D) features."""
        if not len(self.slopes):
            return np.full(len(features), self.base)
        offsets: Floats = self.base + (features - self.middle) @ self.slopes
        return offsets


@dataclass(frozen=True)
class DecayMean:
    """The mean of quality: guess + (best - guess) exp(-(sum of c_dp |x_d - origin_d|^p over d and p)^exponent), c >= 0.

    d are the settings and p the powers. `remaining` is the exponential: 1 at the origin, where nothing is compressed,
    and decaying towards 0.
    """

    origin: Floats  # (D,)
    coefficients: Floats  # (D * powers,)
    exponent: float = 1.0

    @classmethod
    def fitted(cls, features: Floats, values: Floats, origin: Floats, constant_guess: float, best: float) -> DecayMean:
        """The fit with the exponent of the smallest squared error, to the (N,) values of (N, D) features.

        For each exponent the coefficients come from non-negative least squares (Lawson & Hanson 1974) of the logarithm,
        weighted by the remaining quality, with a ridge.
        """
        remaining = np.clip((values - constant_guess) / max(best - constant_guess, 1e-6), 0.02, 1.2)
        weight = np.clip(remaining, 0.05, 1.0)  # an error of the logarithm is one of the quality over the remaining
        design = _powers(features, origin) * weight[:, None]
        ridge = np.sqrt(COEFFICIENT_RIDGE) * np.eye(design.shape[1])
        fits = []
        for exponent in EXPONENTS:
            lost = np.maximum(-np.log(remaining), 0.0) ** (1 / exponent)
            solved, _ = nnls(np.vstack([design, ridge]), np.append(lost * weight, np.zeros(len(ridge))))
            fits.append(cls(origin, solved, exponent))
        return min(fits, key=lambda fit: float(((fit.remaining(features) - remaining) ** 2).sum()))

    def remaining(self, features: Floats) -> Floats:
        """(N,) shares of the quality above the constant guess, for (N, D) features."""
        shares: Floats = np.exp(-((_powers(features, self.origin) @ self.coefficients) ** self.exponent))
        return shares


def _powers(features: Floats, origin: Floats) -> Floats:
    """(N, D * powers) powers of the distances from the origin."""
    distances = np.abs(features - origin)
    return np.column_stack([distances**power for power in POWERS])


class QualityModel:
    """Predicts mean and standard deviation of the quality of weights before they are trained."""

    def __init__(self) -> None:
        self._range = 1.0
        self._process: GaussianProcess | None = None
        self._fitted_at = 0
        self._decay: DecayMean | None = None
        self._mean, self._scale = 0.0, 1.0
        self.offsets: dict[Deployment, Offset] = {}

    def learn(
        self, observations: Sequence[QualityObservation], constant_guess: float, best: float, origin: Sequence[float]
    ) -> None:
        """Fit to all observations.

        Args:
            constant_guess: quality of a constant guess.
            best: quality of the uncompressed model; its distance from `constant_guess` scales the prior.
            origin: features of settings that compress nothing.
        """
        self._range = max(best - constant_guess, 1e-6)
        self.offsets = _offsets(observations)
        features, values, noise = [], [], []
        for one in observations:
            quality = self._without_offset(one)
            if quality is not None:
                features.append(one.features)
                values.append(quality)
                noise.append(math.hypot(SEED_NOISE, one.error))
        inputs, qualities = np.array(features, dtype=float), np.array(values)
        self._decay = None
        if len(values) >= 2:
            at_origin = np.array(origin, dtype=float)
            self._decay = DecayMean.fitted(inputs, qualities, at_origin, constant_guess, best)
        self._fit(inputs, qualities, np.array(noise))

    def predict(self, features: Sequence[Sequence[float]] | Floats) -> tuple[Floats, Floats]:
        """(N,) means and (N,) standard deviations of the quality of weights with (N, D) features."""
        wanted = np.atleast_2d(np.asarray(features, dtype=float))
        if self._process is None:
            return np.full(len(wanted), self._mean), np.full(len(wanted), self._range)
        mean, sd = self._process.predict(self._inputs(wanted))
        return self._mean + self._scale * mean, np.maximum(self._scale * sd, SEED_NOISE)

    def _inputs(self, features: Floats) -> Floats:
        """The features, with the mean function's value as one more column."""
        assert self._decay is not None
        return np.column_stack([features, self._decay.remaining(features)])

    def offset(self, deployment: Deployment, features: Floats) -> Floats:
        """(N,) quality under a deployment minus that of the weights, for weights with (N, D) features."""
        return self.offsets.get(deployment, Offset()).at(features)

    def _without_offset(self, observation: QualityObservation) -> float | None:
        """Quality of the weights: the mean over deployments of the measured quality less the offset."""
        features = np.array([observation.features])
        values = [value - self.offset(deployment, features)[0] for deployment, value in observation.quality.items()]
        return float(np.mean(values)) if values else None

    def _fit(self, features: Floats, values: Floats, noise: Floats) -> None:
        if len(values) < 2:
            self._mean = float(values.mean()) if len(values) else self._mean
            self._process = None
            return
        self._mean, self._scale = float(values.mean()), max(float(values.std()), 0.05 * self._range)
        inputs, variance = self._inputs(features), (noise / self._scale) ** 2 + 1e-8
        scaled = (values - self._mean) / self._scale
        before = self._process
        kernel, unknown = _kernels(inputs.shape[1]) if before is None else (before.kernel, before.noise)
        priors = None
        if before is None or len(values) >= REFIT * self._fitted_at:
            priors, self._fitted_at = _priors(inputs.shape[1]), len(values)
        self._process = fit_process(kernel, inputs, scaled, variance, priors, unknown)


def _kernels(inputs: int) -> tuple[Any, Any]:
    """(the kernel of quality, that of the noise), with a length scale for each of the inputs."""
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    smooth = Matern(np.ones(inputs), (0.05, 100.0), nu=2.5)
    return ConstantKernel(1.0, (0.05, 100.0)) * smooth, WhiteKernel(1e-2, (1e-6, 1.0))


def _priors(inputs: int) -> Priors:
    """The priors of the hyperparameters of `_kernels`."""
    means, deviations = np.array([AMPLITUDE_PRIOR, *[LENGTH_PRIOR] * inputs, NOISE_PRIOR]).T
    return Priors(means, deviations)


def _offsets(observations: Sequence[QualityObservation]) -> dict[Deployment, Offset]:
    """The offset of every measured deployment from the reference, the one with most observations."""
    counts = Counter(deployment for one in observations for deployment in one.quality)
    if not counts:
        return {}
    reference = max(counts, key=lambda deployment: counts[deployment])
    offsets = {reference: Offset()}
    for deployment in counts:
        both = [one for one in observations if deployment in one.quality and reference in one.quality]
        if deployment != reference and both:
            differences = np.array([one.quality[deployment] - one.quality[reference] for one in both])
            offsets[deployment] = Offset.fitted(np.array([one.features for one in both], dtype=float), differences)
    return offsets
