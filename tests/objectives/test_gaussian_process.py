"""The process that predicts qualities and latencies, against the formulas of the textbook."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from objectives.gaussian_process import Priors, fit_process
from objectives.latency_kernel import PRIORS, residual_kernel
from objectives.shapes import COORDINATES


def observed(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(seed).random((count, 2))
    return inputs, np.sin(4 * inputs[:, 0]) + inputs[:, 1]


def test_a_prediction_is_the_conditional_distribution_of_the_function_without_noise() -> None:
    inputs, values = observed(12, 0)
    kernel, noise, variance = ConstantKernel(1.5) * RBF([0.5, 0.8]), WhiteKernel(0.04), np.linspace(0.01, 0.05, 12)
    wanted = np.random.default_rng(1).random((5, 2))
    mean, sd = fit_process(kernel, inputs, values, variance, None, noise).predict(wanted)
    covariance = kernel(inputs) + np.diag(variance + 0.04)
    shared = kernel(wanted, inputs)
    np.testing.assert_allclose(mean, shared @ np.linalg.solve(covariance, values), rtol=1e-9)
    conditional = kernel(wanted) - shared @ np.linalg.solve(covariance, shared.T)
    np.testing.assert_allclose(sd, np.sqrt(np.diag(conditional)), rtol=1e-7)


@pytest.mark.parametrize("deviation", [0.001, 100.0])
def test_a_sure_prior_decides_the_hyperparameters_and_a_wide_one_leaves_them_to_the_data(deviation: float) -> None:
    inputs, values = observed(30, 0)
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * RBF(1.0, (1e-2, 1e2))
    priors = Priors(np.log([1.0, 0.1]), np.array([deviation, deviation]))
    process = fit_process(kernel, inputs, values, np.full(30, 1e-4), priors)
    length = float(np.exp(process.kernel.theta[1]))
    assert abs(length - 0.1) < 0.001 if deviation < 1 else length > 0.2


def test_a_fit_without_priors_keeps_the_hyperparameters() -> None:
    inputs, values = observed(10, 0)
    kernel = ConstantKernel(2.0) * RBF(0.3)
    np.testing.assert_array_equal(
        fit_process(kernel, inputs, values, np.full(10, 0.1), None).kernel.theta, kernel.theta
    )


def test_equal_shapes_share_more_than_near_ones_and_costs_correlate_distant_ones() -> None:
    places = np.zeros((3, COORDINATES))
    places[1, 0], places[2, 0] = 0.01, 50.0  # near the first, and far from both
    kernel = residual_kernel()
    assert len(kernel.theta) == len(PRIORS.means)
    np.testing.assert_allclose(np.exp(kernel.theta), np.exp(PRIORS.means))
    [[same, near, far]] = kernel(np.column_stack([places[:1], [[0.0]]]), np.column_stack([places, np.zeros(3)]))
    assert same > near > far == pytest.approx(0.0)
    [[_, _, shared]] = kernel(np.column_stack([places[:1], [[0.2]]]), np.column_stack([places, np.full(3, 0.1)]))
    assert shared == pytest.approx(0.02)
