"""Worlds: what every set of weights of a space would give, made up from formulas or recorded from measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import header  # noqa: F401 - puts the project on the path
import numpy as np

from search.config.schema import EconomyConfig
from search.propose.known_latency import weights_grid
from search.propose.surrogate.improvement import Staircase
from search.space.deployments import Deployment
from search.space.space import PRECISION, RUNTIME, Params, Space
from spaces.knob import Knob, Value
from spaces.recipe import Recipe, Step


@dataclass
class World:
    """What every set of weights of a space gives, by row of the grid over its weights' knobs.

    quality: (W, P) by weights and pair. costs: (W, P) log ms. predicted: (W, P) as a table would say. rungs: (W, R)
    what lower rungs see. seconds: (W,) of a full recovery; look: (W,) of one look at a lower rung. rows: (W, D) of the
    grid; all of it, or what was recorded.
    """

    name: str
    space: Space
    rows: np.ndarray
    quality: np.ndarray
    costs: np.ndarray
    predicted: np.ndarray
    error: float  # of the predictions, log ms
    seconds: np.ndarray
    look: np.ndarray
    floor: float
    rungs: np.ndarray
    shares: tuple[float, ...] = ()
    places: dict[tuple[int, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.grid = weights_grid(self.space)
        self.places = {tuple(row): i for i, row in enumerate(self.rows.tolist())}

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        return self.space.deployments

    def place(self, settings: Params) -> int:
        """Which weights these settings are."""
        return self.places[tuple(self.grid.indices({**self.space.off, **settings}).tolist())]

    @cached_property
    def uncompressed(self) -> int:
        return self.place(self.space.off)

    @cached_property
    def reference(self) -> tuple[float, float]:
        """(log ms, quality): 1.1 times the latency of the uncompressed model as it came, and the floor."""
        return math.log(1.1) + float(self.costs[self.uncompressed, 0]), self.floor

    @cached_property
    def kept_reference(self) -> tuple[float, float]:
        """The same for models that keep what a run asks them to keep (`economy.keep`)."""
        best = float(self.quality[self.uncompressed].max())
        return self.reference[0], self.floor + EconomyConfig().keep * (best - self.floor)

    @cached_property
    def exhaustive(self) -> float:
        """Hypervolume of the front of everything there is (log ms times accuracy)."""
        return self._area(self.reference)

    @cached_property
    def exhaustive_kept(self) -> float:
        return self._area(self.kept_reference)

    def _area(self, reference: tuple[float, float]) -> float:
        points = zip(self.costs.ravel().tolist(), self.quality.ravel().tolist(), strict=True)
        return Staircase.of(list(points), reference).area

    def adds(self, place: int, points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> bool:
        """Whether a set of weights reaches beyond the front of (log ms, quality) points."""
        own = list(zip(self.costs[place].tolist(), self.quality[place].tolist(), strict=True))
        return Staircase.of([*points, *own], reference).area > Staircase.of(points, reference).area

    # What the sampler may know (`search.propose.CostModel`).

    def of(self, pool: Sequence[Params]) -> np.ndarray:
        return np.array([self.place(settings) for settings in pool], dtype=np.int64)

    def prediction(self, pool: Sequence[Params]) -> np.ndarray:
        return self.predicted[self.of(pool)]

    def recipe(self, params: Params) -> Recipe:
        named = {name: value for name, value in params.items() if name not in (RUNTIME, PRECISION)}
        changed = {n: v for n, v in named.items() if v != self.space.off.get(n)}
        steps: dict[str, dict[str, Value]] = {}
        for name, value in changed.items():
            axis, _, knob = name.partition(".")
            steps.setdefault(axis, {})[knob] = value
        made = [Step(axis, settings) for axis, settings in steps.items()]
        precision = str(params.get(PRECISION, "fp32"))
        if precision != "fp32":
            made.append(Step("bits", {"precision": precision}))
        recover: dict[str, Value] = {"epochs": 1.0} if changed else {}
        return Recipe("world", "", self.name, tuple(made), recover, Step(str(params.get(RUNTIME, "eager"))))


# --- the synthetic world ----------------------------------------------------------------------------------------


def synthetic() -> World:
    """34,560 sets of weights under nine deployments, from formulas: nothing of its 311,040 configurations was measured.

    Latency is a sum of costs, as on a processor; accuracy falls slowly at first and then steeply with every axis, and
    faster where another axis has cut already; training has luck, and the table's predictions have an error of 3 %.
    """
    knobs = {
        "distill.layers": Knob("layers", off=12, low=1, high=12, step=1, help=""),
        "distill.width": Knob("width", off=1.0, low=0.5, high=1.0, step=0.125, help=""),
        "prune.heads": Knob("heads", off=1.0, low=0.125, high=1.0, step=0.125, help=""),
        "prune.neurons": Knob("neurons", off=1.0, low=0.125, high=1.0, step=0.125, help=""),
        "low_rank.rank": Knob("rank", off=1.0, low=0.2, high=1.0, step=0.1, help=""),
        "bits.precision": Knob("precision", off="fp32", choices=("fp32", "int8", "int4"), help=""),
        "runtime.name": Knob("name", off="eager", choices=("eager", "compiled", "onnx"), help=""),
    }
    deployments = tuple(Deployment(r, w) for r in ("eager", "compiled", "onnx") for w in ("fp32", "int8", "int4"))
    space = Space(knobs, None, deployments)
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
        np.log(0.3 + overhead[r] * layers * (1 + 0.3 * (rank < 1)) + 0.9 * speed[w] * work) for r, w in deployments
    ], axis=1)  # fmt: skip
    costs += rng.normal(0, 0.02, costs.shape)
    damage = (
        0.9 * (1 - layers / 12) ** 2.2
        + 0.5 * (1 - width) ** 1.3
        + 0.35 * (1 - heads) ** 3
        + 0.55 * (1 - neurons) ** 2.5
        + 0.5 * (1 - rank) ** 2
    )
    crowded = (1 - layers / 12) * (1 - neurons) + (1 - width) * (1 - rank) + (1 - heads) * (1 - layers / 12)
    damage = damage + 0.6 * crowded
    truth = 0.5 + 0.36 * np.exp(-(damage**1.3) * 1.6) + rng.normal(0, 0.004, len(rows))
    fragile = np.stack(
        [1 + 2 * (1 - work / work.max()) if w != "fp32" else np.zeros(len(rows)) for _, w in deployments], 1
    )
    quality = (
        truth[:, None] - fragile * np.array([lost[w] for _, w in deployments]) + rng.normal(0, 0.0015, costs.shape)
    )
    one_shot = 0.5 + 0.36 * np.exp(-3.5 * damage) + rng.normal(0, 0.01, len(rows))
    quarter = 0.3 * one_shot + 0.7 * truth - 0.02 * damage + rng.normal(0, 0.007, len(rows))
    return World(
        "synthetic",
        space,
        rows,
        np.clip(quality, 0.45, 1.0),
        costs,
        costs + rng.normal(0, 0.03, (len(rows), 1)),
        0.03,
        600 * (0.25 + 0.75 * work / work.max()),
        np.full(len(rows), 5.0),
        0.5,
        np.stack([one_shot, quarter], axis=1),
        (0.0, 0.25),
    )


# --- the recorded world -----------------------------------------------------------------------------------------


def recorded(path: Path) -> World:
    """The largest whole grid of what `benchmarks/record.py` recorded in `path`.

    Raises:
        ValueError: not even the smallest is whole.
    """
    import record

    first, *entries = record.lines(path)
    deployments = tuple(Deployment(runtime, precision) for runtime, precision in first["pairs"])
    found = {_key(entry["settings"]): entry for entry in entries if len(entry["measured"]) == len(deployments)}
    whole = [n for n in range(len(record.GRIDS)) if all(_key(s) in found for s in record.grid(n))]
    if not whole:
        raise ValueError(f"{path}: {len(found)} sets of weights, and the smallest grid has {len(record.grid(0))}")
    chosen = record.grid(whole[-1])
    predicted = {_key(entry["settings"]): entry for entry in first["predicted"]}
    knobs = {name: _knob(name, sorted({float(s[name]) for s in chosen})) for name in chosen[0]}
    knobs["bits.precision"] = Knob(
        "precision", off="fp32", choices=tuple(dict.fromkeys(w for _, w in deployments)), help=""
    )
    knobs["runtime.name"] = Knob(
        "name", off=deployments[0][0], choices=tuple(dict.fromkeys(r for r, _ in deployments)), help=""
    )
    space = Space(knobs, None, deployments)
    grid = weights_grid(space)
    order = sorted((tuple(grid.indices({**space.off, **s}).tolist()), _key(s)) for s in chosen)
    entries = [found[key] for _, key in order]
    columns = [[tuple(m["pair"]) for m in entry["measured"]].index for entry in entries]

    def table(name: str) -> np.ndarray:
        picked = [
            [e["measured"][where(pair)][name] for pair in deployments]
            for e, where in zip(entries, columns, strict=True)
        ]
        return np.array(picked, dtype=float)

    ms = table("ms")
    if all("speedup" in m for e in entries for m in e["measured"]):  # a machine's own changes of speed left out
        uncompressed = next(e for e in found.values() if e["seconds"].get("weights", 0.0) == 0.0)["measured"][0]
        ms = uncompressed["ms"] * uncompressed["speedup"] / table("speedup")
    rungs = [[float(e["rungs"].get(str(r), first["floor"])) for r in range(len(first["shares"]))] for e in entries]
    return World(
        "recorded",
        space,
        np.array([row for row, _ in order], dtype=np.int64),
        table("accuracy"),
        np.log(ms),
        np.array([predicted[key]["log_ms"] for _, key in order]),
        float(np.median([predicted[key]["sd"] for _, key in order])),
        np.array([float(e["seconds"].get("weights", 0.0)) for e in entries]),
        np.array([float(e["seconds"]["quality"]) for e in entries]),  # a look counts on part of the rows: at most this
        float(first["floor"]),
        np.array(rungs),
        tuple(first["shares"]),
    )


def _key(settings: Params) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, float(value)) for name, value in settings.items()))


def _knob(name: str, values: Sequence[float]) -> Knob:
    """A knob over evenly spaced values; the highest is off."""
    step = values[1] - values[0] if len(values) > 1 else None
    whole = all(v.is_integer() for v in values) and max(values) > 1
    low, high = (int(v) if whole else v for v in (values[0], values[-1]))
    return Knob(
        name, off=high, low=low, high=high, step=None if step is None else int(step) if whole else step, help=""
    )
