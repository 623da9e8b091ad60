"""The time of a model from its sizes: a sum of physical costs, and what measured models say beside it.

Costs are fitted by non-negative least squares of relative errors, drawn towards a prior while there are few
measurements (Lawson & Hanson, 1974). What they leave is a Gaussian process on log residuals (Rasmussen & Williams,
2006, chapters 2 and 5): smooth over sizes, plus a part of each shape's own, which is how a kernel that likes one width
and not the next looks from outside. So a measured model is given back within its error, and the error grows with the
distance from what was measured.

It is not scikit-learn's regressor, which `search.propose.surrogate.quality` uses: a few hyperparameters are chosen from
a grid by their leave-one-out density, which holds with three measurements, where a likelihood's optimum does not.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace

import numpy as np

from objectives.shapes import Array, Shapes, features, places

#: Milliseconds of each of `shapes.COSTS`, of a processor nobody has: only their proportions matter, once there is one
#: measurement.
GUESS = np.array([5e-2, 5e-2, 1e-2, 4e-8, 2e-7, 5e-7, 5e-7, 1e-7, 2e-6])
#: Standard deviation in log units before any measurement: of the guess, and of another deployment's costs.
UNKNOWN, BORROWED = 2.0, 0.7
#: A cost's share of the time is what the prior says, give or take that much, or this where it is less.
SHARE = 0.05
#: Relative noise that the prior's pull is weighed against.
TYPICAL = 0.02
#: No measured error is less than this: fresh processes of one model differ by more than the calls of one process show.
LEAST_ERROR = 0.003

#: What is tried for the residuals, by their leave-one-out density; and where the weak prior of each has its middle.
SMOOTH = (0.005, 0.015, 0.04, 0.1, 0.25)  # standard deviation of the part that is smooth over sizes
OWN = (0.004, 0.01, 0.025, 0.06, 0.15)  # and of each shape's own part
LENGTHS = (1.5, 3.0, 6.0)  # length scale, in standard deviations of `places`
MIDDLES, WIDTH = (0.03, 0.015, 3.0), 1.2  # WIDTH in log units
#: That many measurements choose among them; the others only count afterwards.
CHOOSERS = 60
#: Least spread of a coordinate of `places` that is taken for one: 10 % of a size.
LEAST_SPREAD = 0.1


@dataclass(frozen=True)
class MeasuredTimes:
    """What was measured of n models of one deployment: ms (n,) and their relative standard errors (n,)."""

    shapes: Shapes
    ms: Array
    error: Array


@dataclass(frozen=True)
class Unmeasured:
    """What is said of a deployment while nothing of it is measured: costs that are a guess, or another deployment's."""

    batch: int
    length: float
    costs: Array  # (F,) ms each
    error: float  # standard deviation in log units

    def predict(self, shapes: Shapes) -> tuple[Array, Array]:
        """(log of ms (N,), its standard deviation (N,))."""
        return np.log(features(shapes, self.batch, self.length) @ self.costs), np.full(len(shapes), self.error)


@dataclass(frozen=True)
class Fit:
    """The costs of one deployment, and the process of what they leave."""

    batch: int
    length: float
    costs: Array  # (F,) ms each
    scales: Array  # (F,) prior standard deviation of each cost, ms
    measured: MeasuredTimes
    smooth: float = 0.0  # standard deviations of the residuals' two parts, in log units
    own: float = 0.0
    reach: float = 1.0  # length scale of the smooth part

    def predict(self, shapes: Shapes) -> tuple[Array, Array]:
        """(log of ms (N,), its standard deviation (N,)): of what a measurement without error would find."""
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
        """(N, n): how alike models are to the measured ones, 0 to 1; and 1 where they are the same."""
        at, theirs = self._at(shapes), self._measured_places
        squares = (at**2).sum(1)[:, None] + (theirs**2).sum(1)[None] - 2 * at @ theirs.T
        # In standard deviations; equal places differ by rounding alone.
        return np.exp(-0.5 * np.maximum(squares, 0.0) / self.reach**2), (squares < 1e-9).astype(float)

    def _at(self, shapes: Shapes) -> Array:
        """(N, D): places in standard deviations of the measured ones."""
        middle, spread = self._scale
        scaled: Array = (places(shapes) - middle) / spread
        return scaled

    @functools.cached_property
    def _scale(self) -> tuple[Array, Array]:
        where = places(self.measured.shapes)
        return where.mean(0), np.maximum(where.std(0), LEAST_SPREAD)

    @functools.cached_property
    def _measured_places(self) -> Array:
        return self._at(self.measured.shapes)

    @functools.cached_property
    def _held(self) -> _Held:
        """What every prediction needs of the measured models."""
        from scipy.special import stdtrit

        measured = self.measured
        amounts = features(measured.shapes, self.batch, self.length)
        level = amounts @ self.costs
        residuals = np.log(measured.ms) - np.log(level)
        terms = amounts * self.scales / level[:, None]
        near, same = self._near(measured.shapes)
        left = self.smooth**2 * near + self.own**2 * same + np.diag(measured.error**2)
        # The costs have seen the residuals already, so only the rest is drawn to them; of the error they have their
        # part. The root of the inverse, because one product with it is faster than a triangular solution.
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
    """Costs and residuals of what was measured, n >= 1 models that differ."""
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
    """`bare` with the sizes of what the costs leave, those under which every model is likeliest given the others."""
    measured = bare.measured
    chosen = np.linspace(0, len(measured.ms) - 1, min(CHOOSERS, len(measured.ms))).astype(int)
    amounts = features(measured.shapes[chosen], bare.batch, bare.length)
    level = amounts @ bare.costs
    residuals = np.log(measured.ms[chosen]) - np.log(level)
    terms = amounts * bare.scales / level[:, None]
    fixed = terms @ terms.T + np.diag(measured.error[chosen] ** 2)
    at = bare._measured_places[chosen]
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
