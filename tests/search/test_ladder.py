"""Rungs and rejection, in a made-up world where the truth is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from search.pareto import non_dominated
from search.propose import Economy
from search.propose.improvement import layers_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def worlds() -> ModuleType:
    if "worlds" not in sys.modules:
        sys.path.insert(0, str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("worlds", BENCHMARKS / "worlds.py")
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules["worlds"] = made  # a dataclass looks its module up
        spec.loader.exec_module(made)
    return sys.modules["worlds"]


@pytest.fixture(scope="module")
def world() -> object:
    return worlds().synthetic()


ECONOMY = Economy(shares=(0.0, 0.25, 1.0), halving=2, reject=True, audit=0.0)


def test_the_same_front_for_less_training(world: object) -> None:
    """With rungs and rejection as much training buys more of the front."""
    spent, reached = [], []
    for seed in range(3):
        straight = worlds().search(world, "random", seed, 20)
        thrifty = worlds().search(world, "random", seed, 20, ECONOMY)
        spent.append(thrifty.trained_s[-1] / thrifty.weights - straight.trained_s[-1] / straight.weights)
        budget = straight.trained_s[-1]
        inside = [h for h, s in zip(thrifty.hypervolume, thrifty.trained_s, strict=True) if s <= budget]
        reached.append(max(inside) / straight.hypervolume[-1])
    assert np.mean(reached) > 1.0


def test_what_is_rejected_would_hardly_ever_have_been_on_the_front(world: object) -> None:
    audited = Economy(shares=(0.0, 0.25, 1.0), halving=2, reject=True, audit=1.0)
    audits = wrong = 0
    for seed in range(3):
        trace = worlds().search(world, "random", seed, 40, audited)
        audits, wrong = audits + trace.audits, wrong + trace.wrong
    assert audits >= 20
    assert wrong / audits <= 0.1


def test_layers_are_fronts_of_what_is_left() -> None:
    points = np.random.default_rng(0).normal(size=(60, 2))
    layers = layers_of(points)
    for layer in range(max(layers) + 1):
        left = [i for i in range(60) if layers[i] >= layer]
        front = {left[i] for i in non_dominated([tuple(points[j]) for j in left])}
        assert front == {i for i in left if layers[i] == layer}


def test_what_cannot_run_has_a_layer_too() -> None:
    assert layers_of(np.array([[np.inf, -0.5], [0.0, -0.5], [np.inf, -0.4]])) == [1, 0, 2]
