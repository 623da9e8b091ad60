"""The time of a model predicted from its sizes: a sum of physical costs, corrected by measured models.

Costs are fitted by non-negative least squares of relative errors (Lawson & Hanson, 1974), shrunk towards a prior while
there are few measurements. Their log residuals are a Gaussian process (Rasmussen & Williams, 2006, chapters 2 and 5)
with a part that is smooth over sizes, and an independent part for each shape, because a kernel can be fast at one width
and slow at the next. So a measured model is predicted within its measurement error, and the predicted error grows with
the distance from measured models.

scikit-learn's regressor, which `search.propose.surrogate.quality` uses, is not used here: the few hyperparameters are
chosen from a grid by leave-one-out density, which is reliable with three measurements, where maximum likelihood is not.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace

import numpy as np

from objectives.shapes import Array, Shapes, coordinates, features

#: Prior milliseconds of each of `shapes.COSTS`, on an imaginary processor: only their proportions matter once there is
#: one measurement.
GUESS = np.array([5e-2, 5e-2, 1e-2, 4e-8, 2e-7, 5e-7, 5e-7, 1e-7, 2e-6])
#: Standard deviation, in log units, of predictions without a measurement: from `GUESS`, and from another deployment.
UNKNOWN, BORROWED = 2.0, 0.7
#: Least prior standard deviation of a cost's share of the time; a larger prior share is its own standard deviation.
SHARE = 0.05
#: Relative noise of a typical measurement, which weighs the prior against the data.
TYPICAL = 0.02
#: Least relative error of a measurement: processes of one model differ by more than the calls of one process show.
LEAST_ERROR = 0.003

#: Hyperparameters of the residuals: the grid to choose from, and the medians of their weak log-normal priors.
SMOOTH = (0.005, 0.015, 0.04, 0.1, 0.25)  # standard deviation of the part that is smooth over sizes
OWN = (0.004, 0.01, 0.025, 0.06, 0.15)  # standard deviation of each shape's independent part
LENGTHS = (1.5, 3.0, 6.0)  # length scale, in standard deviations of `coordinates`
MIDDLES, WIDTH = (0.03, 0.015, 3.0), 1.2  # WIDTH in log units
#: At most so many measurements choose the hyperparameters; predictions use all of them.
CHOOSERS = 60
#: Least standard deviation that one of `coordinates` is scaled by: 10 % of a size.
LEAST_SPREAD = 0.1


@dataclass(frozen=True)
class MeasuredTimes:
    """The measured times of n models under one deployment: ms (n,) and their relative standard errors (n,)."""

    shapes: Shapes
    ms: Array
    error: Array


@dataclass(frozen=True)
class Unmeasured:
    """The prediction for a deployment without measurements, from guessed costs or another deployment's."""

    batch: int
    length: float
    costs: Array  # (F,) ms each
    error: float  # standard deviation in log units

    def predict(self, shapes: Shapes) -> tuple[Array, Array]:
        """(log of ms (N,), its standard deviation (N,))."""
        return np.log(features(shapes, self.batch, self.length) @ self.costs), np.full(len(shapes), self.error)


@dataclass(frozen=True)
class Fit:
    """The fitted costs of one deployment, and the Gaussian process of its log residuals."""

    batch: int
    length: float
    costs: Array  # (F,) ms each
    scales: Array  # (F,) prior standard deviation of each cost, ms
    measured: MeasuredTimes
    smooth: float = 0.0  # standard deviations of the residuals' two parts, in log units
    own: float = 0.0
    reach: float = 1.0  # length scale of the smooth part

    def predict(self, shapes: Shapes) -> tuple[Array, Array]:
        """(log of ms (N,), its standard deviation (N,)) of the time that an error-free measurement would give."""
        amounts = features(shapes, self.batch, self.length)
        level = amounts @ self.costs
        near, same = self._near(shapes)
        alike = self.smooth**2 * near + self.own**2 * same
        held = self._held
        terms = amounts * self.scales / level[:, None]
        shared = terms @ held.terms.T + alike
        alone = (terms**2).sum(1) + self.smooth**2 + self.own**2
        explained = ((shared @ held.root) ** 2).sum(1)
        return np.log(level) + alike @ held.pull, held.tail * np.sqrt(np.maximum(alone - explained, 1e-8))

    def _near(self, shapes: Shapes) -> tuple[Array, Array]:
        """(N, n) each: the similarity of models to the measured ones, 0 to 1; and 1 where they are the same, else 0."""
        at, theirs = self._at(shapes), self._measured_coordinates
        squares = (at**2).sum(1)[:, None] + (theirs**2).sum(1)[None] - 2 * at @ theirs.T
        # In standard deviations; equal coordinates differ by rounding alone.
        return np.exp(-0.5 * np.maximum(squares, 0.0) / self.reach**2), (squares < 1e-9).astype(float)

    def _at(self, shapes: Shapes) -> Array:
        """(N, D): `coordinates`, standardised by those of the measured models."""
        middle, spread = self._scale
        scaled: Array = (coordinates(shapes) - middle) / spread
        return scaled

    @functools.cached_property
    def _scale(self) -> tuple[Array, Array]:
        where = coordinates(self.measured.shapes)
        return where.mean(0), np.maximum(where.std(0), LEAST_SPREAD)

    @functools.cached_property
    def _measured_coordinates(self) -> Array:
        return self._at(self.measured.shapes)

    @functools.cached_property
    def _held(self) -> _Held:
        """The parts of every prediction that depend on the measured models alone."""
        from scipy.special import stdtrit

        measured = self.measured
        amounts = features(measured.shapes, self.batch, self.length)
        level = amounts @ self.costs
        residuals = np.log(measured.ms) - np.log(level)
        terms = amounts * self.scales / level[:, None]
        near, same = self._near(measured.shapes)
        left = self.smooth**2 * near + self.own**2 * same + np.diag(measured.error**2)
        # The costs are fitted already, so they add to the variance but not to the correction. The root of the inverse
        # is stored because one product with it is faster than a triangular solve.
        inverse = np.linalg.inv(np.linalg.cholesky(left + terms @ terms.T))
        tail = float(stdtrit(len(level) + 2, 0.975)) / 1.96
        return _Held(np.linalg.solve(left, residuals), terms, inverse.T, tail)


@dataclass(frozen=True)
class _Held:
    pull: Array  # (n,)
    terms: Array  # (n, F)
    root: Array  # (n, n), whose product with its transpose is the inverse covariance
    tail: float  # how much wider few measurements make a 95 % interval than the normal distribution's


def fit_latency(measured: MeasuredTimes, batch: int, length: float, prior: Array = GUESS) -> Fit:
    """Fit costs and residual hyperparameters to n >= 1 measured models that differ from each other.

    Args:
        batch, length: rows of a call, and tokens of a row.
        prior: (F,) ms of each of `shapes.COSTS`, up to a common factor.
    """
    from scipy.optimize import nnls

    error = np.maximum(measured.error, LEAST_ERROR)
    measured = MeasuredTimes(measured.shapes, measured.ms, error)
    amounts = features(measured.shapes, batch, length)
    relative = amounts / measured.ms[:, None]  # (n, F): the share of the time that 1 ms a unit would be
    weight = TYPICAL / np.hypot(TYPICAL, error)
    guessed = prior * float(np.exp(-np.log(relative @ prior).mean()))  # of the right size altogether
    shares = relative.mean(0)
    scales = np.maximum(guessed, np.divide(SHARE, shares, out=np.zeros_like(shares), where=shares > 0))
    pull = TYPICAL / scales
    costs, _ = nnls(
        np.concatenate([weight[:, None] * relative * scales, np.diag(pull * scales)]),
        np.concatenate([weight, pull * guessed]),
        maxiter=1000,
    )
    return _with_residuals(Fit(batch, length, costs * scales, scales, measured))


def _with_residuals(bare: Fit) -> Fit:
    """`bare` with the residual hyperparameters of the highest leave-one-out density plus log prior."""
    measured = bare.measured
    chosen = np.linspace(0, len(measured.ms) - 1, min(CHOOSERS, len(measured.ms))).astype(int)
    amounts = features(measured.shapes[chosen], bare.batch, bare.length)
    level = amounts @ bare.costs
    residuals = np.log(measured.ms[chosen]) - np.log(level)
    terms = amounts * bare.scales / level[:, None]
    fixed = terms @ terms.T + np.diag(measured.error[chosen] ** 2)
    at = bare._measured_coordinates[chosen]
    squares = ((at[:, None] - at[None]) ** 2).sum(2)
    best: tuple[float, tuple[float, float, float]] | None = None
    for reach in LENGTHS:
        near = np.exp(-0.5 * squares / reach**2)
        for smooth, own in itertools.product(SMOOTH, OWN):
            inverse = np.linalg.inv(fixed + smooth**2 * near + own**2 * np.eye(len(level)))
            tried = (smooth, own, reach)
            score = _left_out(inverse, residuals) - sum(
                0.5 * (np.log(value / middle) / WIDTH) ** 2 for value, middle in zip(tried, MIDDLES, strict=True)
            )
            best = max(best or (score, tried), (score, tried))
    assert best is not None
    smooth, own, reach = best[1]
    return replace(bare, smooth=smooth, own=own, reach=reach)


def _left_out(inverse: Array, residuals: Array) -> float:
    """Log density of each residual given the others, summed (Rasmussen & Williams, 2006, equations 5.10 to 5.12)."""
    variance = 1 / np.diag(inverse)
    errors = (inverse @ residuals) * variance
    return float(-0.5 * (np.log(variance) + errors**2 / variance).sum())
