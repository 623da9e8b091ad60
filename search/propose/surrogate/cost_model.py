"""Predictions for a recipe before it is built: its latency under every deployment, its size, its trial's seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from objectives.arrays import Floats
from objectives.shapes import Shapes, megabytes_of, operations_of
from search.front.front import Front
from search.front.outcome import Outcome
from search.prepare.prepared import Prepared
from search.propose.deployment_choice import DeploymentSelector
from search.propose.surrogate.latency_predictor import LatencyPredictor, deployment_name
from search.space.deployments import PRECISION, Deployment, fixed_precision, is_of_deployment
from search.space.space import Params
from spaces.axes.bits import EMBEDDING_PRECISIONS, HEAD_PRECISIONS, INTEGER, WITH_A_HEAD, WITH_INTEGER_TABLES
from spaces.knob import Value

TABLES = "bits.embeddings"
#: A latency limit excludes a candidate whose prediction is above it by this many standard errors.
LIMIT_ERRORS = 3.0
#: A size limit excludes a candidate whose predicted size is this many times the limit: files also hold names, graphs
#: and scales, which the prediction leaves out.
SLACK = 1.1


class TableCostModel:
    """A `CostModel` from the table of latencies and the durations of the trials so far."""

    def __init__(
        self,
        prepared: Prepared,
        predictor: LatencyPredictor,
        siblings: DeploymentSelector,
        stored_settings: Sequence[Params] = (),
    ) -> None:
        self._predictor, self._siblings, self.stored_settings = predictor, siblings, stored_settings
        self._space = prepared.space
        self._fixed = fixed_precision(prepared.space.knobs)
        tables = prepared.space.knobs.get(TABLES)
        if tables is not None and tables.single is not None:
            self._fixed[TABLES] = tables.single
        self._head_follows = prepared.task.generates  # else it stays fp32 where some blocks do
        self._stored = {self._weights_settings(settings) for settings in stored_settings}
        wanted = prepared.config.limits
        self._max_log_latency = math.inf if wanted.max_latency_ms is None else math.log(wanted.max_latency_ms)
        self._max_size_mb = math.inf if wanted.max_size_mb is None else wanted.max_size_mb
        self._durations: list[tuple[float, float, float]] = []  # work of a call, seconds of training, of measuring
        self._uncompressed_work = self._work(predictor.shapes([prepared.space.off]))[0]

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """The deployments that a set of weights is measured under."""
        return self._siblings.deployments

    def costs(self, pool: Sequence[Params]) -> tuple[Floats, Floats]:
        """(N, P) log ms by deployment, infinite where a limit excludes it, and (N,) their common standard error."""
        shapes = self._predictor.shapes(pool)
        costs, errors = self._predicted(pool, shapes)
        error = errors.mean(1)
        if math.isfinite(self._max_log_latency):
            sd = np.hypot(errors, self._predictor.reference_error)
            costs = np.where(costs - LIMIT_ERRORS * sd > self._max_log_latency, np.inf, costs)
        if math.isfinite(self._max_size_mb):
            sizes = np.stack([self._megabytes(pool, shapes, one) for one in self.deployments], axis=1)
            costs = np.where(sizes > SLACK * self._max_size_mb, np.inf, costs)
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
        """Update the table of latencies and the durations from a trial. The loop calls it as an observer."""
        if outcome.status == "complete":
            self._predictor.correct(outcome)
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

    def _predicted(self, pool: Sequence[Params], shapes: Shapes) -> tuple[Floats, Floats]:
        """(N, P) log ms and its standard error."""
        columns = [self._predicted_under(pool, shapes, deployment) for deployment in self.deployments]
        return np.stack([c[0] for c in columns], axis=1), np.stack([c[1] for c in columns], axis=1)

    def _predicted_under(self, pool: Sequence[Params], shapes: Shapes, deployment: Deployment) -> tuple[Floats, Floats]:
        names = np.array([deployment_name(self._deployed(params, deployment)) for params in pool])
        log_ms, sd = np.empty(len(pool)), np.empty(len(pool))
        for name in np.unique(names):
            chosen = names == name
            log_ms[chosen], sd[chosen] = self._predictor.table.predict(str(name), shapes[chosen])
        return log_ms, sd

    def _megabytes(self, pool: Sequence[Params], shapes: Shapes, deployment: Deployment) -> Floats:
        """(N,) predicted sizes of the files that a deployment stores."""
        plans = [self._stored_as(self._deployed(params, deployment)) for params in pool]
        megabytes = np.empty(len(pool))
        for plan in set(plans):
            chosen = np.array([one == plan for one in plans])
            megabytes[chosen] = megabytes_of(shapes[chosen], deployment.precision, *plan)
        return megabytes

    def _stored_as(self, settings: Params) -> tuple[str, str, int]:
        """(precision of the tables, of the head, number of fp32 blocks), as `megabytes_of` takes them.

        "" is the precision that tables or head have without a setting of their own.
        """
        precision, tables = str(settings[PRECISION]), str(settings.get(TABLES, EMBEDDING_PRECISIONS[0]))
        blocks = int(settings.get("bits.fp32_blocks", 0)) if precision in INTEGER else 0
        own = str(settings.get("bits.head", HEAD_PRECISIONS[0])) if precision in WITH_A_HEAD else HEAD_PRECISIONS[0]
        follows = "fp32" if blocks and not self._head_follows else ""
        return (
            "" if tables == EMBEDDING_PRECISIONS[0] else tables,
            follows if own == HEAD_PRECISIONS[0] else own,
            blocks,
        )

    def _deployed(self, params: Params, deployment: Deployment) -> dict[str, Value]:
        """The settings that weights of `params` have under a deployment."""
        settings = {**params, **self._fixed, **deployment.settings}
        return settings if deployment.runtime in WITH_INTEGER_TABLES else {**settings, TABLES: EMBEDDING_PRECISIONS[0]}

    def _work(self, shapes: Shapes) -> Floats:
        return operations_of(shapes, self._predictor.table.batch, self._predictor.table.length)
