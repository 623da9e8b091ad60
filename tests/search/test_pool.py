"""Candidates to compare: all on the grid, all different."""

import numpy as np

from search.propose.pool import Grid
from spaces.knob import Knob

KNOBS = {
    "a": Knob("a", off=6, low=1, high=6, step=1, help=""),
    "b": Knob("b", off=1.0, low=0.25, high=1.0, step=0.125, help=""),
    "c": Knob("c", off="x", choices=("x", "y", "z"), help=""),
    "d": Knob("d", off=1.0, low=0.01, high=1.0, log=True, help=""),
}


def test_every_row_of_a_pool_is_different_and_on_the_grid() -> None:
    grid, rng = Grid(KNOBS), np.random.default_rng(0)
    good = grid.random(5, rng)
    rows = grid.pool(good, 500, rng)
    assert len(np.unique(rows, axis=0)) == len(rows) > 300
    assert (rows >= 0).all() and (rows < grid.counts).all()


def test_a_small_grid_is_looked_at_whole() -> None:
    grid = Grid({name: KNOBS[name] for name in ("a", "c")})
    rows = grid.pool(np.zeros((0, 2), dtype=np.int64), 100, np.random.default_rng(0))
    assert len(rows) == len(grid) == 18


def test_settings_and_indices_are_inverse() -> None:
    grid, rng = Grid(KNOBS), np.random.default_rng(1)
    for row in grid.random(50, rng):
        np.testing.assert_array_equal(grid.indices(grid.settings(row)), row)


def test_neighbours_differ_in_few_settings() -> None:
    grid, rng = Grid(KNOBS), np.random.default_rng(2)
    good = grid.random(1, rng)
    mutated = grid.mutated(good, 300, rng)
    assert ((mutated != good[0]).sum(1) <= 2).all()
    assert (mutated != good[0]).any(0).all(), "every knob is moved by some"


def test_crossings_take_every_setting_from_a_parent() -> None:
    grid, rng = Grid(KNOBS), np.random.default_rng(3)
    good = grid.random(3, rng)
    for row in grid.crossovers(good, 100, rng):
        assert all(value in good[:, i] for i, value in enumerate(row))


def test_features_of_ordered_knobs_span_the_unit_interval() -> None:
    grid = Grid(KNOBS)
    ends = np.array([[0, 0, 0, 0], grid.counts - 1])
    features = grid.features(ends)
    assert features.shape == (2, 6)
    np.testing.assert_allclose(features[:, [0, 1, 5]], [[0, 0, 0], [1, 1, 1]])


def test_what_the_grid_does_not_hold_has_a_nearest_row() -> None:
    layers = Knob("layers", off=12, low=2, high=6, step=2, help="")
    method = Knob("method", off="fisher", choices=("magnitude", "uniform"), help="")
    grid = Grid({"layers": layers, "method": method})
    assert grid.settings(grid.nearest({"layers": 12, "method": "fisher"})) == {"layers": 6, "method": "magnitude"}
