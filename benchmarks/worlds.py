"""Searches of worlds, without training anything: `truths` has the table of what every set of weights would give.

A world knows the truth. A sampler is told what a search would be told: outcomes, and of latency the predictions of a
table with an error, never the truth itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import header  # noqa: F401 - puts the project on the path
import numpy as np
import optuna
from optuna.samplers import BaseSampler
from truths import World, recorded, synthetic

from objectives.latency import P50
from objectives.quality import metric_named
from search.config.schema import EconomyConfig
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome, Target
from search.loop import Job, Observer, explore
from search.propose.known_latency import KnownLatency, weights_grid
from search.propose.ladder import Economy, Ladder
from search.propose.proposer import Proposer
from search.propose.samplers import SAMPLERS
from search.propose.study import open_study
from search.propose.surrogate.bounds import Bounds
from search.propose.surrogate.improvement import Staircase
from search.propose.surrogate.outlook import Aims, CostModel, Outlook
from search.propose.surrogate.quality import QualityModel
from search.propose.surrogate.record import Record
from search.space.deployments import siblings
from search.space.space import Params
from spaces.recipe import Recipe

__all__ = ["Trace", "TrueCosts", "World", "recorded", "search", "synthetic"]

ACCURACY = metric_named("accuracy").objective
TARGETS = (Target("accuracy", "higher"), Target(LATENCY, "lower"))


class TrueCosts:
    """A world as the sampler knows it."""

    stored_settings: tuple[Params, ...] = ()

    def __init__(self, world: World, priced: bool = False) -> None:
        self._world, self._priced = world, priced
        self.deployments = world.deployments

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
    lost: int = 0  # of the rejected, those that would have added to the front as it was
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

    def reached(self, shipped: bool) -> float:
        """The hypervolume so far, as a run counts it or as the benchmark does."""
        volumes = self.kept if shipped else self.hypervolume
        return volumes[-1] if volumes else 0.0

    def reject(
        self, world: World, outcome: Outcome, points: Sequence[tuple[float, float]], reference: tuple[float, float]
    ) -> None:
        """Count a rejected outcome, and whether it would have reached beyond the front of what was measured."""
        if outcome.status == "rejected":
            self.rejected += 1
            self.lost += world.adds(world.place(outcome.recipe.params), points, reference)

    def spent(self, world: World) -> float:
        """Seconds of training and of looking so far: a recovery that goes on pays for the rest alone."""
        trained = sum(share * float(world.seconds[place]) for place, share in self.paid.items())
        return trained + sum(rungs * float(world.look[place]) for place, rungs in self.seen.items())


def measured(world: World, recipe: Recipe, baseline: bool, place: int) -> Outcome:
    pair = (recipe.runtime.name, str(recipe.params.get("bits.precision", "fp32")))
    if pair not in world.deployments:
        return Outcome(-1, recipe, "infeasible", f"{pair[0]} has no kernels for {pair[1]}", baseline=baseline)
    column = world.deployments.index(pair)
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
    cost_model: CostModel | None = None,
    goal: float = math.inf,
    observers: Sequence[Observer] = (),
) -> Trace:
    """Search a world until `weights` sets of weights were trained or `trials` trials are told.

    `folder` keeps the study in a database, as a real search does, and a search there goes on; without it the study is
    in memory. After so many `looks` at lower rungs it is killed. `shipped` searches as a run does: for models that keep
    most of the accuracy, by the second; otherwise for what the benchmark counts, hypervolume from the floor by the
    set of weights. `before` are the outcomes of an equal search, whose weights are at hand. `cost_model` predicts
    instead of the world's own predictions. The search ends early with a hypervolume of `goal`.
    """
    trace = Trace()
    at_hand = {outcome.recipe.weights_digest for outcome in before if outcome.status == "complete"}
    known = cost_model or TrueCosts(world, shipped)
    aims = Aims(TARGETS[0], world.floor, EconomyConfig().keep if shipped else 0.0)
    outlook = Outlook(Record(weights_grid(world.space), world.space.off, TARGETS[0]), known, QualityModel(), aims)
    points: list[tuple[float, float]] = []

    def evaluate(job: Job) -> Iterator[Outcome]:
        place = world.place(job.recipe.params)
        if job.rejected:
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

    def count_rejected(outcome: Outcome, _: Front) -> None:
        """An observer: what is rejected after a look has no job of its own."""
        trace.reject(world, outcome, points, world.kept_reference if shipped else world.reference)

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
        lambda recipe: siblings(recipe, world.deployments),
        lambda outcome: {},
        seed,
        lambda: trace.weights < weights and trace.reached(shipped) < goal,
        ladder,
        lambda recipe: recipe.weights_digest in at_hand,
        before,
    )
    began = time.monotonic()
    trace.study, trace.points = study, points
    with suppress(KeyboardInterrupt):
        explore(proposer, evaluate, Front(TARGETS), (count_rejected, *observers))
    trace.asking_s = time.monotonic() - began
    outlook.look(study)
    return trace
