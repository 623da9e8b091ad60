"""Searches of worlds, without training anything: `truth` has the table of what every set of weights would give.

A world knows the truth. A sampler is told what a search would be told: outcomes, and of latency the predictions of a
table with an error, never the truth itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from objectives.quality import metric_named
from search.config.schema import EconomyConfig
from search.execute.executor import Job
from search.front.front import Front
from search.front.outcome import Outcome
from search.loop import Observer, explore
from search.propose.known_latency import GainForecast, KnownLatency, weights_grid
from search.propose.proposer import Proposer
from search.propose.samplers import SAMPLERS
from search.propose.study import open_study
from search.propose.surrogate.history import StudyHistory
from search.propose.surrogate.improvement import Staircase
from search.propose.surrogate.quality import QualityModel
from search.propose.surrogate.surrogate import Aims, CostModel, Surrogate
from search.space.deployments import Deployment, siblings
from search.space.space import Params
from spaces.recipe import Recipe
from tests.worlds.truth import World

ACCURACY = metric_named("accuracy").objective


class TrueCosts:
    """A world as the sampler knows it."""

    stored_settings: tuple[Params, ...] = ()

    def __init__(self, world: World, priced: bool = False) -> None:
        self._world, self._priced = world, priced
        self.deployments = world.deployments

    def costs(self, pool: Sequence[Params]) -> tuple[np.ndarray, np.ndarray]:
        return self._world.prediction(pool), np.full(len(pool), self._world.error)

    def seconds(self, pool: Sequence[Params]) -> np.ndarray:
        return self._world.seconds[self._world.of(pool)] if self._priced else np.ones(len(pool))


@dataclass
class Trace:
    """How a search went: after each set of weights the hypervolume, the seconds trained, and the seconds of asking."""

    hypervolume: list[float] = field(default_factory=list)
    shippable: list[float] = field(default_factory=list)  # that of models that keep what a run asks them to keep
    trained_s: list[float] = field(default_factory=list)
    asking_s: float = 0.0
    weights: int = 0
    study: optuna.Study | None = None
    points: list[tuple[float, float]] = field(default_factory=list)  # (log ms, accuracy) of all that was measured
    paid: set[int] = field(default_factory=set)  # weights that were trained

    def count(self, world: World, points: Sequence[tuple[float, float]]) -> None:
        """What has been reached with one more set of weights."""
        self.hypervolume.append(Staircase.of(points, world.reference).area)
        self.shippable.append(Staircase.of(points, world.shippable_reference).area)
        self.trained_s.append(self.spent(world))

    def reached(self, shipped: bool) -> float:
        """The hypervolume so far, as a run counts it or as the benchmark does."""
        volumes = self.shippable if shipped else self.hypervolume
        return volumes[-1] if volumes else 0.0

    def spent(self, world: World) -> float:
        """Seconds of training so far."""
        return sum(float(world.seconds[row_number]) for row_number in self.paid)


def measured(world: World, recipe: Recipe, baseline: bool, row_number: int) -> Outcome:
    pair = Deployment.of(recipe.params)
    if pair not in world.deployments:
        return Outcome(-1, recipe, "infeasible", f"{pair[0]} has no kernels for {pair[1]}", baseline=baseline)
    column = world.deployments.index(pair)
    quality = float(world.quality[row_number, column])
    figures = {"accuracy": ACCURACY.counted(quality, {}), **world.times(row_number, column)}
    seconds = {} if baseline else {"weights": float(world.seconds[row_number])}
    return Outcome(-1, recipe, "complete", measurements=figures, seconds=seconds, baseline=baseline)


def _study(world: World, folder: Path | None, sampler_of: Callable[[int], BaseSampler], seed: int) -> optuna.Study:
    """In the database of `folder`, as a real search keeps it; in memory without one."""
    if folder is None:
        return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler_of(seed))
    return open_study(folder, "study", world.targets, sampler_of, seed, {})


def _surrogate(world: World, shipped: bool, cost_model: CostModel) -> Surrogate:
    aims = Aims(world.targets[0], world.constant_guess, EconomyConfig().keep if shipped else 0.0)
    history = StudyHistory(weights_grid(world.space), world.space.off, world.targets[0], time=world.time)
    return Surrogate(history, cost_model, QualityModel(), aims)


class _Evaluator:
    """Outcomes as the world has them, noted in `trace`; weights of `before` cost nothing again."""

    def __init__(self, world: World, trace: Trace, before: Sequence[Outcome], kill_after: int | None) -> None:
        self._world, self._trace, self._kill_after = world, trace, kill_after
        self._at_hand = {outcome.recipe.weights_digest for outcome in before if outcome.status == "complete"}

    def __call__(self, job: Job) -> Iterator[Outcome]:
        trace, row_number = self._trace, self._world.row_number(job.recipe.params)
        if not job.baseline:
            if trace.weights == self._kill_after:
                raise KeyboardInterrupt
            trace.weights += 1
            if job.recipe.weights_digest not in self._at_hand:
                trace.paid.add(row_number)
        for recipe in (job.recipe, *job.siblings):
            outcome = measured(self._world, recipe, job.baseline, row_number)
            if outcome.status == "complete":
                trace.points.append((math.log(outcome.value(self._world.time)), outcome.value("accuracy")))
            yield outcome
        trace.count(self._world, trace.points)


def search(
    world: World,
    sampler: str,
    seed: int,
    weights: int,
    least_gain: float = 0.0,
    trials: int = 100_000,
    folder: Path | None = None,
    kill_after: int | None = None,
    shipped: bool = False,
    before: Sequence[Outcome] = (),
    cost_model: CostModel | None = None,
    goal: float = math.inf,
    observers: Sequence[Observer] = (),
) -> Trace:
    """Search a world until `weights` sets of weights were trained or `trials` trials are told.

    `folder` keeps the study in a database, as a real search does, and a search there goes on; without it the study
    is in memory. It is killed in the training after `kill_after` sets of weights. `shipped` searches as a run does:
    for models that keep most of the accuracy, by the second; otherwise for what the benchmark counts, hypervolume
    from a constant guess's by the set of weights. `least_gain` ends it as `budget.least_gain` does. `before` are the
    outcomes of an equal search, whose weights are at hand. `cost_model` predicts instead of the world's own
    predictions. The search ends early with a hypervolume of `goal`.
    """
    trace = Trace()
    surrogate = _surrogate(world, shipped, cost_model or TrueCosts(world, shipped))

    def sampler_of(number: int) -> BaseSampler:
        return SAMPLERS[sampler](number, world.space, surrogate)

    study = _study(world, folder, sampler_of, seed)
    asked = study.sampler
    forecast = GainForecast(surrogate, asked, least_gain) if isinstance(asked, KnownLatency) else None
    proposer = Proposer(
        *(study, world.space, world.targets, trials, world.recipe),
        lambda recipe: siblings(recipe, world.deployments),
        lambda outcome: {},
        seed,
        lambda: trace.weights < weights and trace.reached(shipped) < goal,
        forecast,
        before,
    )
    began = time.monotonic()
    trace.study = study
    evaluate = _Evaluator(world, trace, before, kill_after)
    with suppress(KeyboardInterrupt):
        explore(proposer, evaluate, Front(world.targets), observers)
    trace.asking_s = time.monotonic() - began
    surrogate.refresh(study)
    return trace
