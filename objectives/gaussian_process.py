"""Gaussian process regression with few observations (Rasmussen & Williams 2006, chapters 2 and 5).

scikit-learn's regressor, with two things that it leaves out: hyperparameters of the highest posterior density, and the
deviation of the function without the noise of single observations. Both predictions of a search are such a process:
the quality of weights (`search.propose.surrogate.quality`), and what a sum of costs leaves of log latencies
(`objectives.latency_model`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from objectives.arrays import Floats


@dataclass(frozen=True)
class Priors:
    """Normal priors of the logarithms of a kernel's free hyperparameters, in the order of `kernel.theta`."""

    means: Floats
    deviations: Floats


@dataclass(frozen=True)
class GaussianProcess:
    """A process that is fitted to N observations."""

    kernel: Any  # of the function
    inputs: Floats  # (N, D)
    weights: Floats  # (N,) the inverse covariance times the observed values
    root: Floats  # (N, N) the inverse of the covariance's Cholesky factor
    noise: Any = None  # the `WhiteKernel` of the observations, where there is one

    def predict(self, inputs: Floats) -> tuple[Floats, Floats]:
        """(M,) means and (M,) standard deviations of the function at (M, D) inputs."""
        shared = self.kernel(inputs, self.inputs)
        # A product with the inverse factor is faster than scikit-learn's triangular solve.
        explained = ((shared @ self.root.T) ** 2).sum(1)
        return shared @ self.weights, np.sqrt(np.maximum(self.kernel.diag(inputs) - explained, 0.0))


def fit_process(
    kernel: Any, inputs: Floats, values: Floats, variance: Floats, priors: Priors | None, noise: Any = None
) -> GaussianProcess:
    """Fit a process of mean 0 to (N,) values at (N, D) inputs.

    Args:
        kernel: of scikit-learn, of the function.
        variance: (N,) known variances of the values.
        priors: of the hyperparameters of `kernel` and `noise`; None keeps those that they have.
        noise: a `WhiteKernel`, where the values have noise of unknown variance too.
    """
    from scipy.linalg import solve_triangular
    from sklearn.gaussian_process import GaussianProcessRegressor

    optimizer = None if priors is None else partial(_most_probable, priors)
    whole = kernel if noise is None else kernel + noise
    regressor = GaussianProcessRegressor(whole, alpha=variance, optimizer=optimizer)
    with warnings.catch_warnings():
        # A length scale at its bound: the input hardly matters, or has few observations.
        warnings.simplefilter("ignore")
        regressor.fit(inputs, values)
    fitted = regressor.kernel_
    root = solve_triangular(regressor.L_, np.eye(len(values)), lower=True, check_finite=False)
    parts = (fitted, None) if noise is None else (fitted.k1, fitted.k2)
    return GaussianProcess(parts[0], inputs, regressor.alpha_, root, parts[1])


def _most_probable(
    priors: Priors, negative_likelihood: Callable[[Floats], tuple[float, Floats]], start: Floats, bounds: Floats
) -> tuple[Floats, float]:
    """(logarithms of the hyperparameters, the minimum): the maximum a posteriori.

    With few observations the likelihood alone overfits the length scales (Rasmussen & Williams 2006, 5.4.1).
    """
    from scipy.optimize import minimize

    def objective(theta: Floats) -> tuple[float, Floats]:
        value, gradient = negative_likelihood(theta)
        z = (theta - priors.means) / priors.deviations
        return value + 0.5 * float(z @ z), gradient + z / priors.deviations

    starts = np.unique([start, np.clip(priors.means, bounds[:, 0], bounds[:, 1])], axis=0)
    optima = [minimize(objective, one, jac=True, method="L-BFGS-B", bounds=bounds) for one in starts]
    best = min(optima, key=lambda optimum: float(optimum.fun))
    return best.x, float(best.fun)
