"""Worlds: what every set of weights of a space would give, from formulas or from a recording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from objectives import objective_named
from objectives.measurement import Measurement
from search.config.schema import EconomyConfig
from search.front.outcome import LATENCY, Target
from search.propose.known_latency import weights_grid
from search.propose.surrogate.improvement import Staircase
from search.space.deployments import Deployment
from search.space.space import PRECISION, RUNTIME, Params, Space
from spaces.knob import Knob, Value
from spaces.recipe import Recipe, Step


@dataclass
class World:
    """What every set of weights of a space gives, by row of the grid over its weights' knobs.

    quality: (W, P) by weights and deployment. costs: (W, P) log ms. predicted: (W, P) as a table would say. seconds:
    (W,) of a recovery. rows: (W, D) of the grid; all of it, or what was recorded.
    """

    name: str
    space: Space
    rows: np.ndarray
    quality: np.ndarray
    costs: np.ndarray
    predicted: np.ndarray
    error: float  # of the predictions, log ms
    seconds: np.ndarray
    constant_guess: float
    row_of: dict[tuple[int, ...], int] = field(default_factory=dict)
    time: str = LATENCY  # the objective that costs are of
    other_times: Mapping[str, np.ndarray] = field(default_factory=dict)  # (W, P) log ms by name
    conditions: Mapping[str, Any] = field(default_factory=dict)  # of measured times

    def __post_init__(self) -> None:
        self.grid = weights_grid(self.space)
        self.row_of = {tuple(row): i for i, row in enumerate(self.rows.tolist())}

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        return self.space.deployments

    @property
    def targets(self) -> tuple[Target, Target]:
        return Target("accuracy", "higher"), Target(self.time, "lower")

    def times(self, row_number: int, column: int) -> dict[str, Measurement]:
        """The measured times of weights under a deployment, by name."""
        logs = {self.time: self.costs, **self.other_times}
        return {
            name: objective_named(name).counted(math.exp(float(log[row_number, column])), self.conditions)
            for name, log in logs.items()
        }

    def row_number(self, settings: Params) -> int:
        """Which weights these settings are."""
        return self.row_of[tuple(self.grid.indices({**self.space.off, **settings}).tolist())]

    @cached_property
    def uncompressed(self) -> int:
        return self.row_number(self.space.off)

    @cached_property
    def reference(self) -> tuple[float, float]:
        """(log ms, quality): 1.1 times the latency of the uncompressed model as it came, and a constant guess's."""
        return math.log(1.1) + float(self.costs[self.uncompressed, 0]), self.constant_guess

    @cached_property
    def shippable_reference(self) -> tuple[float, float]:
        """The same for models that keep what a run asks them to keep (`economy.keep`)."""
        best = float(self.quality[self.uncompressed].max())
        return self.reference[0], self.constant_guess + EconomyConfig().keep * (best - self.constant_guess)

    @cached_property
    def exhaustive(self) -> float:
        """Hypervolume of the front of everything there is (log ms times accuracy)."""
        return self._area(self.reference)

    @cached_property
    def exhaustive_shippable(self) -> float:
        return self._area(self.shippable_reference)

    def _area(self, reference: tuple[float, float]) -> float:
        points = zip(self.costs.ravel().tolist(), self.quality.ravel().tolist(), strict=True)
        return Staircase.of(list(points), reference).area

    # What the sampler may know (`search.propose.CostModel`).

    def of(self, pool: Sequence[Params]) -> np.ndarray:
        return np.array([self.row_number(settings) for settings in pool], dtype=np.int64)

    def prediction(self, pool: Sequence[Params]) -> np.ndarray:
        return self.predicted[self.of(pool)]

    def recipe(self, params: Params) -> Recipe:
        named = {name: value for name, value in params.items() if name not in (RUNTIME, PRECISION)}
        changed = {n: v for n, v in named.items() if v != self.space.off.get(n)}
        steps: dict[str, dict[str, Value]] = {}
        for name, value in changed.items():
            axis, _, knob = name.partition(".")
            steps.setdefault(axis, {})[knob] = value
        recipe_steps = [Step(axis, settings) for axis, settings in steps.items()]
        precision = str(params.get(PRECISION, "fp32"))
        if precision != "fp32":
            recipe_steps.append(Step("bits", {"precision": precision}))
        recover: dict[str, Value] = {"epochs": 1.0} if changed else {}
        return Recipe("world", "", self.name, tuple(recipe_steps), recover, Step(str(params.get(RUNTIME, "eager"))))


_SYNTHETIC_KNOBS = {
    "distill.layers": Knob("layers", off=12, low=1, high=12, step=1, help=""),
    "distill.width": Knob("width", off=1.0, low=0.5, high=1.0, step=0.125, help=""),
    "prune.heads": Knob("heads", off=1.0, low=0.125, high=1.0, step=0.125, help=""),
    "prune.neurons": Knob("neurons", off=1.0, low=0.125, high=1.0, step=0.125, help=""),
    "low_rank.rank": Knob("rank", off=1.0, low=0.2, high=1.0, step=0.1, help=""),
    "bits.precision": Knob("precision", off="fp32", choices=("fp32", "int8", "int4"), help=""),
    "runtime.name": Knob("name", off="eager", choices=("eager", "compiled", "onnx"), help=""),
}


def damage(depth: np.ndarray, width: np.ndarray, heads: np.ndarray, neurons: np.ndarray, rank: np.ndarray) -> Any:
    """(W,) what the shares kept of each axis take from the quality, and more where two axes cut together."""
    alone = (
        0.9 * (1 - depth) ** 2.2
        + 0.5 * (1 - width) ** 1.3
        + 0.35 * (1 - heads) ** 3
        + 0.55 * (1 - neurons) ** 2.5
        + 0.5 * (1 - rank) ** 2
    )
    together = (1 - depth) * (1 - neurons) + (1 - width) * (1 - rank) + (1 - heads) * (1 - depth)
    return alone + 0.6 * together


def synthetic() -> World:
    """34,560 sets of weights under nine deployments, from formulas: nothing of its 311,040 configurations was measured.

    Latency is a sum of costs, as on a processor; accuracy falls slowly at first and then steeply with every axis, and
    faster where another axis has cut already; training has luck, and the table's predictions have an error of 3 %.
    """
    deployments = tuple(Deployment(r, w) for r in ("eager", "compiled", "onnx") for w in ("fp32", "int8", "int4"))
    space = Space(_SYNTHETIC_KNOBS, None, deployments)
    grid = weights_grid(space)
    rows = grid.pool(np.zeros((0, 5), dtype=np.int64), len(grid), np.random.default_rng(0))
    values = [np.array(v, dtype=float)[rows[:, i]] for i, v in enumerate(grid.values.values())]
    layers, width, heads, neurons, rank = values
    rng = np.random.default_rng(12345)
    work = layers * width * rank**0.8 * (width * heads + 2 * neurons) / 3
    overhead = {"eager": 0.25, "compiled": 0.12, "onnx": 0.05}
    speed = {"fp32": 1.0, "int8": 0.45, "int4": 0.7}
    lost = {"fp32": 0.0, "int8": 0.004, "int4": 0.02}
    costs = np.stack([
        np.log(0.3 + overhead[r] * layers * (1 + 0.3 * (rank < 1)) + 0.9 * speed[w] * work) for r, w, *_ in deployments
    ], axis=1)  # fmt: skip
    costs += rng.normal(0, 0.02, costs.shape)
    taken = damage(layers / 12, width, heads, neurons, rank)
    truth = 0.5 + 0.36 * np.exp(-(taken**1.3) * 1.6) + rng.normal(0, 0.004, len(rows))
    fragile = np.stack(
        [1 + 2 * (1 - work / work.max()) if w != "fp32" else np.zeros(len(rows)) for _, w, *_ in deployments], 1
    )
    quality = (
        truth[:, None] - fragile * np.array([lost[w] for _, w, *_ in deployments]) + rng.normal(0, 0.0015, costs.shape)
    )
    return World(
        "synthetic",
        space,
        rows,
        np.clip(quality, 0.45, 1.0),
        costs,
        costs + rng.normal(0, 0.03, (len(rows), 1)),
        0.03,
        600 * (0.25 + 0.75 * work / work.max()),
        0.5,
    )
