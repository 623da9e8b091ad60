"""Rungs and rejection, in a made-up world where the truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from world import ECONOMY, World, worlds

from search.front.pareto import non_dominated
from search.propose.surrogate.improvement import Staircase, layers_of
from search.propose.surrogate.record import Weights


@pytest.fixture(scope="module")
def world() -> World:
    return worlds().synthetic()


def test_rungs_cost_no_training(world: World) -> None:
    """Of recovery alone, until nine tenths of the front are there: who waits is found again when it is needed."""
    free, shares = replace(world, look=np.zeros(len(world.rows))), []
    for seed in range(4):
        straight = worlds().search(free, "known-latency", seed, 40)
        thrifty = worlds().search(free, "known-latency", seed, 40, ECONOMY)
        shares.append(until(thrifty, 0.9 * world.exhaustive) / until(straight, 0.9 * world.exhaustive))
    assert np.mean(shares) < 1.1


def until(trace: Any, wanted: float) -> float:
    """Seconds of training until the hypervolume is `wanted`."""
    return float(next(s for h, s in zip(trace.hypervolume, trace.trained_s, strict=True) if h >= wanted))


def test_no_rung_is_used_where_a_look_costs_more_than_it_saves(world: World) -> None:
    dear = replace(world, look=0.1 * world.seconds)
    trace = worlds().search(dear, "known-latency", 0, 12, ECONOMY)
    looked = [place for place, rungs in trace.seen.items() if rungs]
    assert 0 < len(trace.looks) <= 4, "until their cost is known"
    assert len(looked) <= 5 + len(trace.looks) < trace.weights, "nor on the way of what comes after the anchors"


def test_what_is_rejected_would_hardly_have_added_to_the_front(world: World) -> None:
    """Of 400 candidates, with the truth beside: what a verdict costs."""
    trace = worlds().search(world, "known-latency", 0, 30)
    stairs = Staircase.of(trace.points, world.reference)
    grid, rng = world.grid, np.random.default_rng(1)
    rejected, lost = 0, []
    for row in grid.drawn(400, rng):
        place = world.places[tuple(row.tolist())]
        one = Weights(grid.settings(row), tuple(row.tolist()), rungs={0: float(world.rungs[place, 0])})
        if trace.bounds.verdict(one):
            rejected += 1
            truth = list(zip(world.costs[place].tolist(), world.quality[place].tolist(), strict=True))
            lost.append(Staircase.of([*trace.points, *truth], world.reference).area / stairs.area - 1)
    assert rejected >= 100
    assert np.mean(np.array(lost) > 0.001) < 0.05
    assert max(lost) < 0.02


def test_layers_are_fronts_of_what_is_left() -> None:
    points = np.random.default_rng(0).normal(size=(60, 2))
    layers = layers_of(points)
    for layer in range(max(layers) + 1):
        left = [i for i in range(60) if layers[i] >= layer]
        front = {left[i] for i in non_dominated([tuple(points[j]) for j in left])}
        assert front == {i for i in left if layers[i] == layer}


def test_what_cannot_run_has_a_layer_too() -> None:
    assert layers_of(np.array([[np.inf, -0.5], [0.0, -0.5], [np.inf, -0.4]])) == [1, 0, 2]
