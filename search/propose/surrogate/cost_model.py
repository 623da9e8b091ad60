"""Predictions for a recipe before it is built: its times under every deployment, its size, its trial's seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from objectives.arrays import Floats
from objectives.passes import Passes
from objectives.shapes import Shapes, megabytes_of, operations_of
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome
from search.prepare.prepared import Prepared
from search.propose.deployment_choice import DeploymentSelector
from search.propose.surrogate.latency_predictor import LatencyPredictor
from search.propose.surrogate.memory_bound import MemoryBound, memory_limit
from search.propose.surrogate.step_reads import AS_IS, TABLES, Precisions, StepReads
from search.space.deployments import Deployment, fixed_precision, is_of_deployment
from search.space.space import Params
from spaces.axes.bits import WITH_INTEGER_TABLES
from spaces.knob import Value

#: A limit of a time excludes a candidate whose prediction is above it by this many standard errors.
LIMIT_ERRORS = 3.0
#: A limit of size or memory excludes a candidate whose prediction is this many times the limit. Statistics lead to
#: other sizes than were asked for; and files also hold names, graphs and scales, which the prediction leaves out.
SLACK = 1.1


@dataclass(frozen=True)
class TimeLimit:
    """The most ms of a time that `predictor` predicts."""

    predictor: LatencyPredictor
    ms: float


class TableCostModel:
    """A `CostModel` from tables of times and the durations of the trials so far.

    Args:
        predictor: of the time that is an objective.
        limits: of this or other times.
    """

    def __init__(
        self,
        prepared: Prepared,
        predictor: LatencyPredictor,
        siblings: DeploymentSelector,
        stored_settings: Sequence[Params] = (),
        limits: Sequence[TimeLimit] = (),
    ) -> None:
        self._predictor, self._siblings, self.stored_settings = predictor, siblings, stored_settings
        self._limits = tuple(limits)
        self._predictors = tuple(dict.fromkeys([predictor, *(limit.predictor for limit in limits)]))
        self._space = prepared.space
        self._fixed = fixed_precision(prepared.space.knobs)
        tables = prepared.space.knobs.get(TABLES)
        if tables is not None and tables.single is not None:
            self._fixed[TABLES] = tables.single
        self._head_follows = prepared.task.generates  # else it stays fp32 where some blocks do
        self._stored = {self._weights_settings(settings) for settings in stored_settings}
        wanted = prepared.config.limits
        self._max_size_mb = math.inf if wanted.max_size_mb is None else wanted.max_size_mb
        self._max_memory_mb = memory_limit(wanted)
        self._memory = _memory_bound(prepared, predictor) if math.isfinite(self._max_memory_mb) else None
        self._durations: list[tuple[float, float, float]] = []  # work of a call, seconds of training, of measuring
        self._uncompressed_work = self._work(predictor.shapes([prepared.space.off]))[0]

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """The deployments that a set of weights is measured under."""
        return self._siblings.deployments

    def costs(self, pool: Sequence[Params]) -> tuple[Floats, Floats]:
        """(N, P) log ms by deployment, infinite where a limit excludes it, and (N,) their common standard error."""
        shapes = self._predictor.shapes(pool)
        pools = [[self._deployed(params, deployment) for params in pool] for deployment in self.deployments]
        predicted = {predictor: _predicted(predictor, pools, shapes) for predictor in self._predictors}
        costs, errors = predicted[self._predictor]
        error = errors.mean(1)
        # Where tokens are proposed, how long the later ones take depends on the text, so on the training.
        of_text = np.array([deployment.cache.speculates for deployment in self.deployments], dtype=bool)
        for limit in self._limits:
            log_ms, errors = predicted[limit.predictor]
            sd = np.hypot(errors, limit.predictor.reference_error)
            over = log_ms - LIMIT_ERRORS * sd > math.log(limit.ms)
            costs = np.where(over & ~of_text if limit.predictor.passes.steps else over, np.inf, costs)
        if math.isfinite(self._max_size_mb):
            sizes = np.stack([self._megabytes(pool, shapes, one) for one in self.deployments], axis=1)
            costs = np.where(sizes > SLACK * self._max_size_mb, np.inf, costs)
        if self._memory is not None:
            least = np.stack([self._least_mb(self._memory, pool, shapes, one) for one in self.deployments], axis=1)
            costs = np.where(least > SLACK * self._max_memory_mb, np.inf, costs)
        return costs, error

    def seconds(self, pool: Sequence[Params]) -> Floats:
        """(N,) expected seconds of training and measuring these weights.

        Training time is linear in the operations of a call, measuring time is constant; both are fitted to the trials
        so far. Weights in the store need no training. All ones while there are fewer than two durations.
        """
        if len(self._durations) < 2:
            return np.ones(len(pool))
        work, training, measuring = np.array(self._durations).T
        terms = np.stack([np.ones(len(work)), work], axis=1)
        fixed, slope = nnls(terms, training)[0]
        trained = fixed + slope * self._work(self._predictor.shapes(pool)) / self._uncompressed_work
        if self._stored:
            trained *= np.array([self._weights_settings(settings) not in self._stored for settings in pool])
        seconds: Floats = trained + float(np.median(measuring))
        return np.maximum(seconds, 1.0)

    def observe(self, outcome: Outcome, front: Front) -> None:
        """Update the tables of times and the durations from a trial. The loop calls it as an observer."""
        if outcome.status == "complete":
            if self._memory is not None:
                self._memory.learn(outcome)
            for predictor in self._predictors:
                predictor.correct(outcome)
        self.learn(outcome)

    def learn(self, outcome: Outcome) -> None:
        """Add the duration of a complete trial."""
        if outcome.status != "complete":
            return
        training = outcome.seconds.get("weights", 0.0)
        if training > 0:
            work = float(self._work(self._predictor.shapes([outcome.recipe.params]))[0] / self._uncompressed_work)
            self._durations.append((work, training, sum(outcome.seconds.values()) - training))

    def _weights_settings(self, settings: Params) -> tuple[tuple[str, Value], ...]:
        """The canonical settings that determine weights: without runtime, precision and cache."""
        full = self._space.canonical(settings)
        return tuple((name, value) for name, value in full.items() if not is_of_deployment(name))

    def _megabytes(self, pool: Sequence[Params], shapes: Shapes, deployment: Deployment) -> Floats:
        """(N,) predicted sizes of the files that a deployment stores."""
        plans = [Precisions.of(self._deployed(params, deployment), self._head_follows) for params in pool]
        megabytes = np.empty(len(pool))
        for plan in set(plans):
            chosen = np.array([one == plan for one in plans])
            megabytes[chosen] = megabytes_of(shapes[chosen], *plan)
        return megabytes

    def _least_mb(self, bound: MemoryBound, pool: Sequence[Params], shapes: Shapes, deployment: Deployment) -> Floats:
        """(N,) lower bounds of memory under a deployment; kernels that skip zeros may hold half of a matrix."""
        nothing = np.zeros(len(shapes))
        matrices = self._megabytes(pool, replace(shapes, tables=nothing, vectors=nothing, tied=nothing), deployment)
        skipping = np.array([params.get("sparse.pattern", "any") != "any" for params in pool])
        settings = self._deployed({}, deployment)
        return bound.megabytes(shapes, np.where(skipping, matrices / 2, matrices), settings)

    def _deployed(self, params: Params, deployment: Deployment) -> dict[str, Value]:
        """The settings that weights of `params` have under a deployment."""
        settings = {**params, **self._fixed, **deployment.settings}
        return settings if deployment.runtime in WITH_INTEGER_TABLES else {**settings, TABLES: AS_IS}

    def _work(self, shapes: Shapes) -> Floats:
        return operations_of(shapes, self._predictor.passes.batch, self._predictor.passes.length)


def _memory_bound(prepared: Prepared, predictor: LatencyPredictor) -> MemoryBound:
    passes = Passes.of(LATENCY, predictor.conditions)
    if predictor.conditions["length"] == "data":
        passes = replace(passes, length=1.0)  # each row has that much
    shape = prepared.space.shape
    reads = StepReads(shape, prepared.context) if prepared.task.generates and shape is not None else None
    return MemoryBound(passes, reads)


def _predicted(predictor: LatencyPredictor, pools: Sequence[Sequence[Params]], shapes: Shapes) -> tuple[Floats, Floats]:
    """(N, P) log ms and its standard error of N settings under P deployments, given by deployment."""
    columns = [predictor.predict(pool, shapes) for pool in pools]
    return np.stack([c[0] for c in columns], axis=1), np.stack([c[1] for c in columns], axis=1)
