"""The closed form of expected improvement against brute-force integration."""

import numpy as np
import pytest

from search.front.pareto import hypervolume
from search.propose.surrogate.improvement import Staircase, expected_gain, expected_improvement

REFERENCE = (2.0, 0.5)
FRONT = [(0.1, 0.6), (0.9, 0.75), (1.6, 0.82)]


def volume(points: list[tuple[float, float]]) -> float:
    return hypervolume([(cost, -quality) for cost, quality in points], (REFERENCE[0], -REFERENCE[1]))


def normal_grid(count: int) -> tuple[np.ndarray, np.ndarray]:
    grid = np.linspace(-5, 5, count)
    weights = np.exp(-0.5 * grid**2)
    return grid, weights / weights.sum()


def brute_force(
    mean: float, sd: float, costs: list[float], error: float, offsets: list[float], least: float = -np.inf
) -> float:
    """Over a fine grid of both normals' quantiles, with the hypervolume of the points themselves."""
    grid, weights = normal_grid(601)
    shifts, shares = normal_grid(25) if error else (np.zeros(1), np.ones(1))
    total = 0.0
    for z, w in zip(grid, weights, strict=True):
        for e, v in zip(shifts, shares, strict=True):
            quality = mean + sd * z
            points = [
                (cost + error * e, quality + offset)
                for cost, offset in zip(costs, offsets, strict=True)
                if quality + offset >= least
            ]
            total += w * v * (volume([*FRONT, *points]) - volume(FRONT))
    return total


CASES = {
    "between members": (0.7, 0.05, [0.5], 0.0, [0.0], -np.inf),
    "faster than all": (0.55, 0.1, [-1.0], 0.0, [0.0], -np.inf),
    "slower than the reference": (0.95, 0.1, [2.5], 0.0, [0.0], -np.inf),
    "costs with an error": (0.7, 0.05, [0.5], 0.3, [0.0], -np.inf),
    "several pairs": (0.7, 0.05, [0.5, -0.2, 1.4], 0.0, [0.0, -0.06, 0.03], -np.inf),
    "several pairs with an error": (0.72, 0.08, [0.5, -0.2, 1.4], 0.2, [0.0, -0.06, 0.03], -np.inf),
    "a limit of quality": (0.66, 0.08, [0.5, -0.2], 0.1, [0.0, -0.03], 0.7),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_brute_force_integration(case: tuple[float, float, list[float], float, list[float], float]) -> None:
    mean, sd, costs, error, offsets, least = case
    gains = expected_improvement(
        np.array([mean]),
        np.array([sd]),
        np.array([costs]),
        np.array([error]),
        np.array([offsets]),
        Staircase.of(FRONT, REFERENCE),
        least,
    )
    assert gains[0] == pytest.approx(brute_force(*case), rel=0.02, abs=2e-5)


def test_a_pair_that_cannot_run_adds_nothing() -> None:
    stairs = Staircase.of(FRONT, REFERENCE)
    one = (np.array([0.7]), np.array([0.05]))
    alone = expected_improvement(*one, np.array([[0.5]]), np.zeros(1), np.zeros((1, 1)), stairs)
    beside = expected_improvement(*one, np.array([[0.5, np.inf]]), np.zeros(1), np.array([[0.0, 0.3]]), stairs)
    assert beside[0] == pytest.approx(alone[0])


def test_candidates_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    stairs = Staircase.of(FRONT, REFERENCE)
    mean, sd = rng.uniform(0.5, 0.9, 40), rng.uniform(0, 0.1, 40)
    costs, error = rng.normal(0.7, 1, (40, 3)), np.zeros(40)
    together = expected_improvement(mean, sd, costs, error, np.zeros_like(costs), stairs)
    one_by_one = [
        expected_improvement(mean[i : i + 1], sd[i : i + 1], costs[i : i + 1], error[:1], np.zeros((1, 3)), stairs)[0]
        for i in range(40)
    ]
    np.testing.assert_allclose(together, one_by_one)


def test_dominated_points_change_no_staircase() -> None:
    a, b = Staircase.of(FRONT, REFERENCE), Staircase.of([*FRONT, (1.0, 0.7), (3.0, 0.99)], REFERENCE)
    np.testing.assert_array_equal(a.start, b.start)
    np.testing.assert_array_equal(a.height, b.height)


def test_gain_without_spread_is_the_distance_above_the_bar() -> None:
    gains = expected_gain(np.array([0.7, 0.7, 0.7]), np.zeros(3), np.array([0.6, 0.8, 0.6]), 0.65)
    np.testing.assert_allclose(gains, [0.1, 0.0, 0.1], atol=1e-9)
