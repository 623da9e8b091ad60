"""What quality a recipe will have after its recovery, from recipes that were recovered.

A Gaussian process (Matern 5/2, one length scale an input; Rasmussen & Williams 2006, chapters 2, 4 and 5) models the
quality of *weights*. Its inputs are the settings, and the value of a mean function with few
coefficients: quality falls from the uncompressed model's towards that of a constant guess, and the losses of the
settings add up, or grow faster than their sum. With ten sets of weights and five settings the process alone knows
little between them, and nothing beyond. A deployment moves the quality by an offset of its own, a plane over the
settings: a low precision costs a small model more than a large one.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from search.space.deployments import Deployment

Floats = NDArray[np.float64]

#: Quality is never known better than this: two seeds of one training differ by about as much.
SEED_NOISE = 0.003
#: Logarithms of the kernel's amplitude, length scales and noise before anything is seen: mean and sd of a normal. The
#: inputs are between 0 and 1, so that quality changes about once over a setting's range.
AMPLITUDE, LENGTH, NOISE = (0.0, 1.0), (0.5, 1.0), (float(np.log(0.01)), 2.0)
#: Powers of a setting's distance from off in the mean function, and how much its coefficients are drawn towards 0.
POWERS, DRAWN = (1, 2, 3), 0.3
#: How what the settings take may add up: as it is, or growing faster than its sum, because a model that one axis has
#: cut already has less to spare for the next.
EXPONENTS = (1.0, 1.5, 2.0)
#: New hyperparameters are sought whenever so many times more weights are known.
REFIT = 1.2


@dataclass(frozen=True)
class Seen:
    """What is known of one set of weights."""

    features: tuple[float, ...]
    quality: Mapping[Deployment, float] = field(default_factory=dict)  # by deployment, recovered in full
    #: Standard error of its quality less the uncompressed model's on the same rows. What the rows do to both is no
    #: noise here: all that is learnt and predicted is of the same rows.
    error: float = 0.0


@dataclass(frozen=True)
class Offset:
    """Quality under one deployment less that of the reference deployment, as a plane over the settings."""

    base: float = 0.0
    slopes: Floats = field(default_factory=lambda: np.zeros(0))  # (D,); without any, the same everywhere
    middle: Floats = field(default_factory=lambda: np.zeros(0))  # (D,)

    @classmethod
    def fitted(cls, features: Floats, differences: Floats) -> Offset:
        """Ridge regression (Hoerl & Kennard 1970): every coefficient is drawn towards 0 as by one observation of it.

        Args:
            features: (N, D) of weights that were measured under both deployments.
            differences: (N,) between the two.
        """
        middle = features.mean(0) if len(features) else np.zeros(features.shape[1])
        design = np.column_stack([np.ones(len(features)), features - middle])
        solved = np.linalg.solve(design.T @ design + np.eye(design.shape[1]), design.T @ differences)
        return cls(float(solved[0]), solved[1:], middle)

    def at(self, features: Floats) -> Floats:
        """(N,) of weights with (N, D) features."""
        if not len(self.slopes):
            return np.full(len(features), self.base)
        made: Floats = self.base + (features - self.middle) @ self.slopes
        return made


@dataclass(frozen=True)
class DecayMean:
    """floor + (best - floor) exp(-(sum over settings d and powers p of c_dp |x_d - origin_d|^p)^exponent), no c below
    0.

    `kept` is what it says is left of (best - floor): 1 at the origin, where nothing is compressed, falling towards 0.
    """

    origin: Floats  # (D,)
    coefficients: Floats  # (D * powers,)
    exponent: float = 1.0

    @classmethod
    def fitted(cls, features: Floats, values: Floats, origin: Floats, floor: float, best: float) -> DecayMean:
        """Of all exponents the one that comes nearest to the (N,) values of (N, D) features.

        For each the coefficients are those of non-negative least squares (Lawson & Hanson 1974) of the logarithm, by
        how much is left, with a ridge.
        """
        left = np.clip((values - floor) / max(best - floor, 1e-6), 0.02, 1.2)
        weight = np.clip(left, 0.05, 1.0)  # an error of the logarithm is one of the quality over what is left
        design = _powers(features, origin) * weight[:, None]
        ridge = np.sqrt(DRAWN) * np.eye(design.shape[1])
        found = []
        for exponent in EXPONENTS:
            lost = np.maximum(-np.log(left), 0.0) ** (1 / exponent)
            solved, _ = nnls(np.vstack([design, ridge]), np.append(lost * weight, np.zeros(len(ridge))))
            found.append(cls(origin, solved, exponent))
        return min(found, key=lambda law: float(((law.kept(features) - left) ** 2).sum()))

    def kept(self, features: Floats) -> Floats:
        """(N,) of (N, D) features."""
        made: Floats = np.exp(-((_powers(features, self.origin) @ self.coefficients) ** self.exponent))
        return made


def _powers(features: Floats, origin: Floats) -> Floats:
    """(N, D * powers) of the distances from where nothing is compressed."""
    away = np.abs(features - origin)
    return np.column_stack([away**power for power in POWERS])


class QualityModel:
    """Mean and error of the quality of weights that were not recovered yet."""

    def __init__(self) -> None:
        self._range = 1.0
        self._kernel: object = None
        self._fitted_at = 0
        self._regressor: object = None
        self._decay: DecayMean | None = None
        self._mean, self._scale = 0.0, 1.0
        self.offsets: dict[Deployment, Offset] = {}

    def learn(self, seen: Iterable[Seen], floor: float, best: float, origin: Sequence[float]) -> None:
        """Fit to everything that is known now.

        Args:
            floor: quality without a model. best: of the uncompressed one. Their distance sets the prior's scale.
            origin: features of settings that compress nothing.
        """
        known = list(seen)
        self._range = max(best - floor, 1e-6)
        self.offsets = _offsets(known)
        top = [self._top(s) for s in known]
        features, values, noise = [], [], []
        for one, value in zip(known, top, strict=True):
            if value is not None:
                features.append(one.features)
                values.append(value)
                noise.append(math.hypot(SEED_NOISE, one.error))
        inputs, qualities = np.array(features, dtype=float), np.array(values)
        self._decay = (
            None if len(values) < 2 else DecayMean.fitted(inputs, qualities, np.array(origin, dtype=float), floor, best)
        )
        self._fit(inputs, qualities, np.array(noise))

    def predict(self, features: Sequence[Sequence[float]] | Floats) -> tuple[Floats, Floats]:
        """(N,) means and standard deviations of the quality of weights with these features."""
        wanted = np.atleast_2d(np.asarray(features, dtype=float))
        if self._regressor is None:
            return np.full(len(wanted), self._mean), np.full(len(wanted), self._range)
        mean, sd = self._regressor.predict(self._inputs(wanted), return_std=True)  # type: ignore[attr-defined]
        return self._mean + self._scale * mean, np.maximum(self._scale * sd, SEED_NOISE)

    def _inputs(self, features: Floats) -> Floats:
        """The settings, and what the mean function makes of them."""
        assert self._decay is not None
        return np.column_stack([features, self._decay.kept(features)])

    def offset(self, deployment: Deployment, features: Floats) -> Floats:
        """(N,) quality under a deployment less that of the weights, for weights with (N, D) features."""
        return self.offsets.get(deployment, Offset()).at(features)

    def _top(self, seen: Seen) -> float | None:
        """Quality of the weights themselves: what the deployments saw, less their offsets."""
        here = np.array([seen.features])
        values = [value - self.offset(deployment, here)[0] for deployment, value in seen.quality.items()]
        return float(np.mean(values)) if values else None

    def _fit(self, features: Floats, values: Floats, noise: Floats) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        if len(values) < 2:
            self._mean = float(values.mean()) if len(values) else self._mean
            self._regressor = None
            return
        self._mean, self._scale = float(values.mean()), max(float(values.std()), 0.05 * self._range)
        again = self._kernel is not None and len(values) < REFIT * self._fitted_at
        inputs = self._inputs(features)
        if self._kernel is None:
            self._kernel = ConstantKernel(1.0, (0.05, 100.0)) * Matern(
                np.ones(inputs.shape[1]), (0.05, 100.0), nu=2.5
            ) + WhiteKernel(1e-2, (1e-6, 1.0))
        regressor = GaussianProcessRegressor(
            self._kernel,
            alpha=(noise / self._scale) ** 2 + 1e-8,
            optimizer=None if again else _most_probable,
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # a length scale at its bound: the setting hardly matters, or is hardly known
            regressor.fit(inputs, (values - self._mean) / self._scale)
        if not again:
            self._kernel, self._fitted_at = regressor.kernel_, len(values)
        self._regressor = _Noiseless(regressor)


def _most_probable(
    unlikely: Callable[[Floats], tuple[float, Floats]], start: Floats, bounds: Floats
) -> tuple[Floats, float]:
    """(logarithms of the hyperparameters, what is minimised there): the likelihood's optimum, held back by the prior.

    With few observations the likelihood alone takes length scales from chance (Rasmussen & Williams 2006, 5.4.1).
    """
    lengths = len(start) - 2
    mean, sd = np.array([AMPLITUDE, *[LENGTH] * lengths, NOISE]).T

    def objective(theta: Floats) -> tuple[float, Floats]:
        value, gradient = unlikely(theta)
        away = (theta - mean) / sd
        return value + 0.5 * float(away @ away), gradient + away / sd

    starts = (np.clip(one, bounds[:, 0], bounds[:, 1]) for one in (start, mean))
    found = [minimize(objective, one, jac=True, method="L-BFGS-B", bounds=bounds) for one in starts]
    best = min(found, key=lambda one: float(one.fun))
    return best.x, float(best.fun)


class _Noiseless:
    """A fitted process without the noise of single trainings in its error: what is sought is the quality itself."""

    def __init__(self, regressor: object) -> None:
        self._inner = regressor

    def predict(self, features: Floats, return_std: bool) -> tuple[Floats, Floats]:
        from scipy.linalg import solve_triangular

        inner = self._inner
        kernel = inner.kernel_.k1  # type: ignore[attr-defined]
        cross = kernel(features, inner.X_train_)  # type: ignore[attr-defined]
        mean = cross @ inner.alpha_  # type: ignore[attr-defined]
        solved = solve_triangular(inner.L_, cross.T, lower=True, check_finite=False)  # type: ignore[attr-defined]
        variance = kernel.diag(features) - (solved**2).sum(0)
        return mean, np.sqrt(np.maximum(variance, 0.0))


def _offsets(known: Sequence[Seen]) -> dict[Deployment, Offset]:
    """Of every deployment that weights were measured under; the one that most were measured under is the reference."""
    counts = Counter(deployment for one in known for deployment in one.quality)
    if not counts:
        return {}
    reference = max(counts, key=lambda deployment: counts[deployment])
    found = {reference: Offset()}
    for deployment in counts:
        both = [one for one in known if deployment in one.quality and reference in one.quality]
        if deployment != reference and both:
            differences = np.array([one.quality[deployment] - one.quality[reference] for one in both])
            found[deployment] = Offset.fitted(np.array([one.features for one in both], dtype=float), differences)
    return found
