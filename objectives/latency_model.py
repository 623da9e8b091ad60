"""The time of a model predicted from its sizes: a sum of physical costs, corrected by measured models.

Costs are fitted by non-negative least squares of relative errors (Lawson & Hanson, 1974), shrunk towards a prior while
there are few measurements. Their log residuals are a Gaussian process (`objectives.gaussian_process`) with a part that
is smooth over sizes, an independent part for each shape, because a kernel can be fast at one width and slow at the
next, and a part that is linear in the costs' shares of the time, because the costs are estimates. So a measured model
is predicted within its measurement error, and the predicted error grows with the distance from measured models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from objectives.arrays import Floats
from objectives.gaussian_process import GaussianProcess, fit_process
from objectives.passes import STEP_COSTS, Passes
from objectives.shapes import Shapes, coordinates

#: Prior milliseconds of each of `shapes.COSTS`, on an imaginary processor: only their proportions matter once there is
#: one measurement.
GUESS = np.array([5e-2, 5e-2, 1e-2, 4e-8, 2e-7, 5e-7, 5e-7, 1e-7, 2e-6])
#: So many of these come first that do not grow with the sizes of matrices.
OVERHEADS = 3
#: Prior milliseconds a byte that a step of generation reads, where the bandwidth is not known: 20 GB/s.
GUESSED_MS_A_BYTE = 5e-8
#: Standard deviation, in log units, of predictions without a measurement: from `GUESS`, and from another deployment.
UNMEASURED_SD, BORROWED_SD = 2.0, 0.7
#: Least prior standard deviation of a cost's share of the time; a larger prior share is its own standard deviation.
LEAST_PRIOR_SHARE = 0.05
#: Relative noise of a typical measurement, which weighs the prior against the data.
TYPICAL = 0.02
#: Least relative error of a measurement: processes of one model differ by more than the calls of one process show.
LEAST_TIME_ERROR = 0.003

#: The hyperparameters are fitted to at most so many measurements; predictions use all of them.
CHOOSERS = 60
#: Least standard deviation that one of `coordinates` is scaled by: 10 % of a size.
LEAST_SPREAD = 0.1


@dataclass(frozen=True)
class MeasuredTimes:
    """The measured times of n models under one deployment: ms (n,) and their relative standard errors (n,)."""

    shapes: Shapes
    ms: Floats
    error: Floats


@dataclass(frozen=True)
class Unmeasured:
    """The prediction for a deployment without measurements, from guessed costs or another deployment's."""

    passes: Passes
    costs: Floats  # (F,) ms each
    error: float  # standard deviation in log units

    def predict(self, shapes: Shapes) -> tuple[Floats, Floats]:
        """(log of ms (N,), its standard deviation (N,))."""
        return np.log(self.passes.features(shapes) @ self.costs), np.full(len(shapes), self.error)


@dataclass(frozen=True)
class CostSum:
    """The fitted costs of one deployment, and the coordinates of models in the process of its log residuals."""

    passes: Passes
    costs: Floats  # (F,) ms each
    scales: Floats  # (F,) prior standard deviation of each cost, ms
    middle: Floats  # (COORDINATES,) of the measured models' `coordinates`
    spread: Floats  # (COORDINATES,)

    def level(self, shapes: Shapes) -> tuple[Floats, Floats]:
        """((N,) log ms by the costs alone, (N, COORDINATES + F) inputs of the process).

        The inputs are `coordinates`, standardised by those of the measured models, and the share of the time that one
        standard deviation of each cost is.
        """
        amounts = self.passes.features(shapes)
        level = amounts @ self.costs
        standardised = (coordinates(shapes) - self.middle) / self.spread
        return np.log(level), np.column_stack([standardised, amounts * self.scales / level[:, None]])


@dataclass(frozen=True)
class Fit:
    """The fitted costs of one deployment, and the Gaussian process of its log residuals."""

    sum: CostSum
    residuals: GaussianProcess
    tail: float  # how much wider few measurements make a 95 % interval than the normal distribution's

    @property
    def costs(self) -> Floats:
        """(F,) ms each."""
        return self.sum.costs

    def predict(self, shapes: Shapes) -> tuple[Floats, Floats]:
        """(log of ms (N,), its standard deviation (N,)) of the time that an error-free measurement would give."""
        level, inputs = self.sum.level(shapes)
        correction, sd = self.residuals.predict(inputs)
        return level + correction, self.tail * np.maximum(sd, 1e-4)


def guess(passes: Passes, ms_a_byte: float = GUESSED_MS_A_BYTE) -> Floats:
    """(F,) prior ms of each of `passes.costs`; `ms_a_byte` is that of the memory's bandwidth.

    Where steps are timed a memory of another speed is assumed beside arithmetic that is faster by the same factor.
    """
    if not passes.steps:
        return GUESS
    slower = ms_a_byte / GUESSED_MS_A_BYTE
    return np.concatenate([GUESS[:OVERHEADS], slower * GUESS[OVERHEADS:], np.full(len(STEP_COSTS), ms_a_byte)])


def fit_latency(measured: MeasuredTimes, passes: Passes, prior: Floats | None = None) -> Fit:
    """Fit the costs and the process of their residuals to n >= 1 measured models that differ from each other.

    Args:
        passes: of the measured times.
        prior: (F,) ms of each of `passes.costs`, up to a common factor; by default `guess`.
    """
    from scipy.optimize import nnls

    prior = guess(passes) if prior is None else prior
    error = np.maximum(measured.error, LEAST_TIME_ERROR)
    measured = MeasuredTimes(measured.shapes, measured.ms, error)
    amounts = passes.features(measured.shapes)
    relative = amounts / measured.ms[:, None]  # (n, F): the share of the time that 1 ms a unit would be
    weight = TYPICAL / np.hypot(TYPICAL, error)
    guessed = prior * float(np.exp(-np.log(relative @ prior).mean()))  # of the right size altogether
    shares = relative.mean(0)
    scales = np.maximum(guessed, np.divide(LEAST_PRIOR_SHARE, shares, out=np.zeros_like(shares), where=shares > 0))
    pull = TYPICAL / scales
    costs, _ = nnls(
        np.concatenate([weight[:, None] * relative * scales, np.diag(pull * scales)]),
        np.concatenate([weight, pull * guessed]),
        maxiter=1000,
    )
    where = coordinates(measured.shapes)
    spread = np.maximum(where.std(0), LEAST_SPREAD)
    return _with_residuals(CostSum(passes, costs * scales, scales, where.mean(0), spread), measured)


def _with_residuals(costs: CostSum, measured: MeasuredTimes) -> Fit:
    from scipy.special import stdtrit

    from objectives.latency_kernel import PRIORS, residual_kernel

    level, inputs = costs.level(measured.shapes)
    residuals, variance = np.log(measured.ms) - level, measured.error**2
    chosen = np.linspace(0, len(level) - 1, min(CHOOSERS, len(level))).astype(int)
    process = fit_process(residual_kernel(), inputs[chosen], residuals[chosen], variance[chosen], PRIORS)
    if len(chosen) < len(level):
        process = fit_process(process.kernel, inputs, residuals, variance, None)
    return Fit(costs, process, float(stdtrit(len(level) + 2, 0.975)) / 1.96)
