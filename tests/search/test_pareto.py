"""Geometry against brute force."""

from __future__ import annotations

import itertools
import random

import pytest

from search.front.pareto import dominates, hypervolume, knee, non_dominated


def random_points(count: int, objectives: int, seed: int) -> list[tuple[float, ...]]:
    """Points on a grid of tenths, so that ties and duplicates occur."""
    draw = random.Random(seed)
    return [tuple(draw.randint(0, 12) / 10 for _ in range(objectives)) for _ in range(count)]


def cells_dominated(points: list[tuple[float, ...]], objectives: int) -> float:
    """Hypervolume up to (1, 1, ...) by counting: exact, because all points lie on the grid of tenths."""
    dominated = 0
    for corner in itertools.product(range(10), repeat=objectives):
        dominated += any(all(round(10 * x) <= c for x, c in zip(p, corner, strict=True)) for p in points)
    return dominated / 10**objectives


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_hypervolume_is_the_volume_of_the_dominated_cells(objectives: int, seed: int) -> None:
    points = random_points(7, objectives, seed)
    assert hypervolume(points, (1.0,) * objectives) == pytest.approx(cells_dominated(points, objectives))


def test_hypervolume_of_nothing_is_zero() -> None:
    assert hypervolume([], (1.0, 1.0)) == 0.0
    assert hypervolume([(1.0, 0.0), (2.0, -5.0)], (1.0, 1.0)) == 0.0


@pytest.mark.parametrize("seed", range(8))
def test_dominated_points_and_order_do_not_change_the_hypervolume(seed: int) -> None:
    points = random_points(20, 3, seed)
    front = [points[i] for i in non_dominated(points)]
    random.Random(seed).shuffle(points)
    assert hypervolume(front, (1.0, 1.0, 1.0)) == pytest.approx(hypervolume(points, (1.0, 1.0, 1.0)))


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_non_dominated_points_are_those_nothing_beats_and_the_rest_is_beaten(objectives: int, seed: int) -> None:
    points = random_points(30, objectives, seed)
    front = non_dominated(points)
    assert not any(dominates(p, points[i]) for i in front for p in points)
    assert len({points[i] for i in front}) == len(front)
    for i in set(range(len(points))) - set(front):
        assert any(points[k] == points[i] or dominates(points[k], points[i]) for k in front)


def test_dominance_is_strict() -> None:
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((1, 3), (2, 2))


def distance_from_the_line(point: tuple[float, float]) -> float:
    """Signed distance of a point from the line through (0, 1) and (1, 0), positive towards the origin."""
    return (1 - point[0] - point[1]) / 2**0.5


@pytest.mark.parametrize("seed", range(8))
def test_the_knee_is_the_point_farthest_from_the_line_through_the_extremes(seed: int) -> None:
    draw = random.Random(seed)
    inner = sorted(draw.random() for _ in range(5))
    points = [(0.0, 1.0), *((x, (1 - x) ** draw.uniform(1.5, 3)) for x in inner), (1.0, 0.0)]
    best = max(range(1, 6), key=lambda i: distance_from_the_line(points[i]))
    assert knee(points) == best
    # Units do not matter: latency in seconds or milliseconds, shifted or not.
    assert knee([(1000 * x + 3, y / 100 - 1) for x, y in points]) == best


def test_the_knee_of_one_or_two_points_is_one_of_them() -> None:
    assert knee([(1.0, 2.0)]) == 0
    assert knee([(1.0, 2.0), (2.0, 1.0)]) in (0, 1)
    assert knee([(1.0, 2.0), (1.0, 2.0)]) in (0, 1)


def test_a_bulge_away_from_the_ideal_still_gives_a_point_between_the_extremes() -> None:
    assert knee([(0.0, 1.0), (0.9, 0.9), (1.0, 0.0)]) == 1
