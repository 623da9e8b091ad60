"""Worlds in which a search can be run without training anything: a table of what every set of weights would give.

A world knows the truth. A sampler is told what a search would be told: outcomes, and of latency the predictions of a
table with an error, never the truth itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import header  # noqa: F401 - puts the project on the path
import numpy as np
import optuna
from optuna.samplers import BaseSampler

from objectives.latency import P50
from objectives.quality import metric_named
from search.front import LATENCY, Front, Outcome, Target
from search.loop import Job, explore
from search.propose import (
    SAMPLERS,
    Aims,
    Bounds,
    Economy,
    KnownLatency,
    Ladder,
    Outlook,
    Proposer,
    QualityModel,
    Record,
    open_study,
    weights_grid,
)
from search.propose.improvement import Staircase
from search.sections import EconomyConfig
from search.space import RUNTIME, WIDTH, Pair, Params, Space, siblings
from spaces.axis import Knob, Value
from spaces.recipe import Recipe, Step

ACCURACY = metric_named("accuracy").objective
TARGETS = (Target("accuracy", "higher"), Target(LATENCY, "lower"))


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
    def pairs(self) -> tuple[Pair, ...]:
        return self.space.pairs

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

    # What the sampler may know (`search.propose.Knowledge`).

    def of(self, pool: Sequence[Params]) -> np.ndarray:
        return np.array([self.place(settings) for settings in pool], dtype=np.int64)

    def prediction(self, pool: Sequence[Params]) -> np.ndarray:
        return self.predicted[self.of(pool)]

    def recipe(self, params: Params) -> Recipe:
        named = {name: value for name, value in params.items() if name not in (RUNTIME, WIDTH)}
        changed = {n: v for n, v in named.items() if v != self.space.off.get(n)}
        steps: dict[str, dict[str, Value]] = {}
        for name, value in changed.items():
            axis, _, knob = name.partition(".")
            steps.setdefault(axis, {})[knob] = value
        made = [Step(axis, settings) for axis, settings in steps.items()]
        width = str(params.get(WIDTH, "fp32"))
        if width != "fp32":
            made.append(Step("bits", {"width": width}))
        recover: dict[str, Value] = {"epochs": 1.0} if changed else {}
        return Recipe("world", "", "", self.name, tuple(made), recover, Step(str(params.get(RUNTIME, "eager"))))


class Known:
    """A world as the sampler knows it."""

    made: tuple[Params, ...] = ()

    def __init__(self, world: World, priced: bool = False) -> None:
        self._world, self._priced = world, priced
        self.pairs = world.pairs

    def costs(self, pool: Sequence[Params]) -> tuple[np.ndarray, np.ndarray]:
        return self.predicted(pool), np.full(len(pool), self._world.error)

    def predicted(self, pool: Sequence[Params]) -> np.ndarray:
        return self._world.prediction(pool)

    def seconds(self, pool: Sequence[Params]) -> np.ndarray:
        return self._world.seconds[self._world.of(pool)] if self._priced else np.ones(len(pool))


@dataclass
class Trace:
    """How a search went: after each set of weights the hypervolume, the seconds trained, and the seconds of asking."""

    hypervolume: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)  # that of models that keep what a run asks them to keep
    trained_s: list[float] = field(default_factory=list)
    asking_s: float = 0.0
    weights: int = 0
    rejected: int = 0
    audits: int = 0
    wrong: int = 0
    looks: list[tuple[str, int]] = field(default_factory=list)  # digest and rung
    study: optuna.Study | None = None
    points: list[tuple[float, float]] = field(default_factory=list)  # (log ms, accuracy) of all that was measured
    bounds: Bounds | None = None  # as they are in the end
    paid: dict[int, float] = field(default_factory=dict)  # of the recovery, by weights
    seen: dict[int, int] = field(default_factory=dict)  # how many lower rungs, by weights

    def train(self, place: int, share: float, rungs: int) -> None:
        """So many lower rungs were looked at on the way to `share`."""
        self.paid[place] = max(share, self.paid.get(place, 0.0))
        self.seen[place] = max(rungs, self.seen.get(place, 0))

    def count(self, world: World, points: Sequence[tuple[float, float]]) -> None:
        """What has been reached with one more set of weights."""
        self.hypervolume.append(Staircase.of(points, world.reference).area)
        self.kept.append(Staircase.of(points, world.kept_reference).area)
        self.trained_s.append(self.spent(world))

    def spent(self, world: World) -> float:
        """Seconds of training and of looking so far: a recovery that goes on pays for the rest alone."""
        trained = sum(share * float(world.seconds[place]) for place, share in self.paid.items())
        return trained + sum(rungs * float(world.look[place]) for place, rungs in self.seen.items())


def measured(world: World, recipe: Recipe, baseline: bool, place: int) -> Outcome:
    pair = (recipe.runtime.name, str(recipe.params.get("bits.width", "fp32")))
    if pair not in world.pairs:
        return Outcome(-1, recipe, "infeasible", f"{pair[0]} has no kernels for {pair[1]}", baseline=baseline)
    column = world.pairs.index(pair)
    quality, ms = float(world.quality[place, column]), math.exp(float(world.costs[place, column]))
    found = {
        "accuracy": ACCURACY.counted(quality, {}),
        LATENCY: P50.counted(ms, {}),
    }
    seconds = {} if baseline else {"weights": float(world.seconds[place])}
    rungs = {} if baseline else {r: float(v) for r, v in enumerate(world.rungs[place])}
    return Outcome(-1, recipe, "complete", measurements=found, seconds=seconds, baseline=baseline, rungs=rungs)


def search(
    world: World,
    sampler: str,
    seed: int,
    weights: int,
    economy: Economy | None = None,
    trials: int = 100_000,
    folder: Path | None = None,
    looks: int = 100_000,
    shipped: bool = False,
    before: Sequence[Outcome] = (),
) -> Trace:
    """Search a world until `weights` sets of weights were trained or `trials` trials are told.

    `folder` keeps the study in a database, as a real search does, and a search there goes on; without it the study is
    in memory. After so many `looks` at lower rungs it is killed. `shipped` searches as a run does: for models that keep
    most of the accuracy, by the second; otherwise for what the benchmark counts, hypervolume from the floor by the
    set of weights. `before` are the outcomes of an equal search, whose weights are at hand.
    """
    trace = Trace()
    at_hand = {outcome.recipe.weights_digest for outcome in before if outcome.status == "complete"}
    known = Known(world, shipped)
    aims = Aims(TARGETS[0], world.floor, EconomyConfig().keep if shipped else 0.0)
    outlook = Outlook(Record(weights_grid(world.space), world.space.off, TARGETS[0]), known, QualityModel(), aims)
    points: list[tuple[float, float]] = []

    def evaluate(job: Job) -> Iterator[Outcome]:
        place = world.place(job.recipe.params)
        if job.rejected:
            trace.rejected += 1
            yield Outcome(-1, job.recipe, "rejected", job.rejected, rung=job.rung)
            return
        if job.share < 1:
            if len(trace.looks) == looks:
                raise KeyboardInterrupt
            trace.looks.append((job.recipe.digest, job.rung))
            seen = {r: float(world.rungs[place, r]) for r in range(job.rung + 1)}
            trace.train(place, job.share, job.rung + 1)
            yield Outcome(
                -1, job.recipe, "paused", rung=job.rung, rungs=seen, seconds={"look": float(world.look[place])}
            )
            return
        if not job.baseline:
            trace.weights += 1
            trace.train(place, 1.0, 0 if economy is None or not job.looks else len(economy.shares) - 1)
        before_it = len(points)
        for recipe in (job.recipe, *job.siblings):
            made = measured(world, recipe, job.baseline, place)
            if made.status == "complete":
                points.append((math.log(made.value(LATENCY)), made.value("accuracy")))
            yield made
        before = Staircase.of(points[:before_it], world.reference).area
        if job.audit:
            trace.audits += 1
            trace.wrong += Staircase.of(points, world.reference).area > before
        trace.count(world, points)

    def sampler_of(number: int) -> BaseSampler:
        return SAMPLERS[sampler](number, world.space, outlook)

    if folder is None:
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler_of(seed))
    else:
        study = open_study(folder, "study", TARGETS, sampler_of, seed, {})
    asked = study.sampler
    trace.bounds = Bounds(outlook, {name: world.space.knobs[name] for name in world.grid.values})
    forecast = (lambda: asked.last) if isinstance(asked, KnownLatency) else (lambda: None)
    ladder = None if economy is None else Ladder(outlook, economy, trace.bounds, forecast)
    proposer = Proposer(
        study,
        world.space,
        TARGETS,
        trials,
        world.recipe,
        lambda recipe: siblings(recipe, world.pairs),
        lambda outcome: {},
        seed,
        lambda: trace.weights < weights,
        ladder,
        lambda recipe: recipe.weights_digest in at_hand,
        before,
    )
    began = time.monotonic()
    trace.study = study
    with suppress(KeyboardInterrupt):
        explore(proposer, evaluate, Front(TARGETS), ())
    trace.asking_s = time.monotonic() - began
    outlook.look(study)
    trace.points = points
    return trace


# --- the synthetic world ----------------------------------------------------------------------------------------


def synthetic() -> World:
    """34,560 sets of weights under nine pairs: 311,040 configurations, from formulas (nothing in it was measured).

    Latency is a sum of costs, as on a processor; accuracy falls slowly at first and then steeply with every axis, and
    faster where another axis has cut already; training has luck, and the table's predictions have an error of 3 %.
    """
    knobs = {
        "distill.layers": Knob("layers", off=12, low=1, high=12, step=1, help=""),
        "distill.width": Knob("width", off=1.0, low=0.5, high=1.0, step=0.125, help=""),
        "prune.heads": Knob("heads", off=1.0, low=0.125, high=1.0, step=0.125, help=""),
        "prune.neurons": Knob("neurons", off=1.0, low=0.125, high=1.0, step=0.125, help=""),
        "low_rank.rank": Knob("rank", off=1.0, low=0.2, high=1.0, step=0.1, help=""),
        "bits.width": Knob("width", off="fp32", choices=("fp32", "int8", "int4"), help=""),
        "runtime.name": Knob("name", off="eager", choices=("eager", "compiled", "onnx"), help=""),
    }
    pairs = tuple((r, w) for r in ("eager", "compiled", "onnx") for w in ("fp32", "int8", "int4"))
    space = Space(knobs, None, pairs)
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
        np.log(0.3 + overhead[r] * layers * (1 + 0.3 * (rank < 1)) + 0.9 * speed[w] * work) for r, w in pairs
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
    fragile = np.stack([1 + 2 * (1 - work / work.max()) if w != "fp32" else np.zeros(len(rows)) for _, w in pairs], 1)
    quality = truth[:, None] - fragile * np.array([lost[w] for _, w in pairs]) + rng.normal(0, 0.0015, costs.shape)
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
    pairs = tuple((runtime, width) for runtime, width in first["pairs"])
    found = {_key(entry["settings"]): entry for entry in entries if len(entry["measured"]) == len(pairs)}
    whole = [n for n in range(len(record.GRIDS)) if all(_key(s) in found for s in record.grid(n))]
    if not whole:
        raise ValueError(f"{path}: {len(found)} sets of weights, and the smallest grid has {len(record.grid(0))}")
    chosen = record.grid(whole[-1])
    predicted = {_key(entry["settings"]): entry for entry in first["predicted"]}
    knobs = {name: _knob(name, sorted({float(s[name]) for s in chosen})) for name in chosen[0]}
    knobs["bits.width"] = Knob("width", off="fp32", choices=tuple(dict.fromkeys(w for _, w in pairs)), help="")
    knobs["runtime.name"] = Knob("name", off=pairs[0][0], choices=tuple(dict.fromkeys(r for r, _ in pairs)), help="")
    space = Space(knobs, None, pairs)
    grid = weights_grid(space)
    order = sorted((tuple(grid.indices({**space.off, **s}).tolist()), _key(s)) for s in chosen)
    entries = [found[key] for _, key in order]
    columns = [[tuple(m["pair"]) for m in entry["measured"]].index for entry in entries]

    def table(name: str) -> np.ndarray:
        picked = [
            [e["measured"][where(pair)][name] for pair in pairs] for e, where in zip(entries, columns, strict=True)
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
