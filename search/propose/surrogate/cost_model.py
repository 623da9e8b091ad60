"""What the sampler knows of a recipe before it is built: latency under every deployment, size, and what finding out
costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from objectives.shapes import Array, Shapes, megabytes_of, operations_of
from search.front.front import Front
from search.front.outcome import Outcome
from search.prepare.prepared import Prepared
from search.propose.deployments import DeploymentSelector
from search.propose.surrogate.latency_predictor import LatencyPredictor, deployment_name
from search.space.deployments import Deployment
from search.space.space import PRECISION, RUNTIME, Params
from spaces.knob import Value

#: A limit forbids what is predicted this many standard errors above it.
SURE = 3.0
#: Files hold names, graphs and scales beside the numbers that a size is predicted from.
SLACK = 1.1


class TableCostModel:
    """The table of latencies, and the costs of trials, as `search.propose.CostModel`."""

    def __init__(
        self, prepared: Prepared, known: LatencyPredictor, siblings: DeploymentSelector, made: Sequence[Params] = ()
    ) -> None:
        self._known, self._siblings, self.stored_settings = known, siblings, made
        self._space = prepared.space
        self._made = {self._plain(settings) for settings in made}
        wanted = prepared.config.limits
        self._latest = math.inf if wanted.max_latency_ms is None else math.log(wanted.max_latency_ms)
        self._largest = math.inf if wanted.max_size_mb is None else wanted.max_size_mb
        self._spent: list[tuple[float, float, float]] = []  # work of a call, seconds of training, of measuring
        self._whole = self._work(known.shapes([prepared.space.off]))[0]

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        return self._siblings.deployments

    def costs(self, pool: Sequence[Params]) -> tuple[Array, Array]:
        shapes = self._known.shapes(pool)
        costs, errors = self._predicted(pool, shapes)
        error = errors.mean(1)
        if math.isfinite(self._latest):
            doubt = np.hypot(errors, self._known.reference_error)
            costs = np.where(costs - SURE * doubt > self._latest, np.inf, costs)
        if math.isfinite(self._largest):
            sizes = np.stack([megabytes_of(shapes, precision) for _, precision in self.deployments], axis=1)
            costs = np.where(sizes > SLACK * self._largest, np.inf, costs)
        return costs, error

    def seconds(self, pool: Sequence[Params]) -> Array:
        """Training grows with the work of a call, measuring does not; both from the trials so far.

        What was trained before, for another search, costs no training.
        """
        if len(self._spent) < 2:
            return np.ones(len(pool))
        work, training, measuring = np.array(self._spent).T
        terms = np.stack([np.ones(len(work)), work], axis=1)
        fixed, slope = nnls(terms, training)[0]
        trained = fixed + slope * self._work(self._known.shapes(pool)) / self._whole
        if self._made:
            trained *= np.array([self._plain(settings) not in self._made for settings in pool])
        made: Array = trained + float(np.median(measuring))
        return np.maximum(made, 1.0)

    def observe(self, outcome: Outcome, front: Front) -> None:
        """Learn from a trial; an observer."""
        if outcome.status == "complete":
            self._known.correct(outcome)
        self.learn(outcome)

    def learn(self, outcome: Outcome) -> None:
        """Learn what a trial cost, if it came to its end."""
        if outcome.status != "complete":
            return
        training = outcome.seconds.get("weights", 0.0)
        if training > 0:
            work = float(self._work(self._known.shapes([outcome.recipe.params]))[0] / self._whole)
            self._spent.append((work, training, sum(outcome.seconds.values()) - training))

    def _plain(self, settings: Params) -> tuple[tuple[str, Value], ...]:
        """Settings without a runtime and a precision, as equal ones are written."""
        full = self._space.canonical(settings)
        return tuple((name, value) for name, value in full.items() if name not in (RUNTIME, PRECISION))

    def _predicted(self, pool: Sequence[Params], shapes: Shapes) -> tuple[Array, Array]:
        """(N, P) log ms and its error."""
        columns = [self._under(pool, shapes, deployment) for deployment in self.deployments]
        return np.stack([c[0] for c in columns], axis=1), np.stack([c[1] for c in columns], axis=1)

    def _under(self, pool: Sequence[Params], shapes: Shapes, deployment: Deployment) -> tuple[Array, Array]:
        names = np.array(
            [deployment_name({**params, RUNTIME: deployment[0], PRECISION: deployment[1]}) for params in pool]
        )
        log_ms, sd = np.empty(len(pool)), np.empty(len(pool))
        for name in np.unique(names):
            chosen = names == name
            log_ms[chosen], sd[chosen] = self._known.table.predict(str(name), shapes[chosen])
        return log_ms, sd

    def _work(self, shapes: Shapes) -> Array:
        return operations_of(shapes, self._known.table.batch, self._known.table.length)
