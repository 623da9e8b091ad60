"""Assembly of a search's proposer: the cost model, the surrogate, the sampler and the study."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from objectives.quality import metric_named
from search.front.outcome import CALL_TIMES, LATENCY
from search.measure import limits
from search.measure.measurer import Measurer
from search.prepare.prepared import Prepared
from search.propose.deployment_choice import DeploymentSelector
from search.propose.equal_search import equal_search
from search.propose.known_latency import GainForecast, KnownLatency, weights_grid
from search.propose.proposer import Proposer
from search.propose.samplers import SAMPLERS
from search.propose.study import open_study
from search.propose.surrogate.cost_model import TableCostModel, TimeLimit
from search.propose.surrogate.history import StudyHistory
from search.propose.surrogate.latency_predictor import LatencyPredictor, UnknownAnatomy
from search.propose.surrogate.quality import QualityModel
from search.propose.surrogate.surrogate import Aims, Surrogate
from search.space.space import Params

log = logging.getLogger(__name__)

#: No time is shorter, so that a limit of 0 has a logarithm.
LEAST_MS = 1e-9


def cost_model_of(
    prepared: Prepared, measurer: Measurer, siblings: DeploymentSelector, stored_settings: Sequence[Params] = ()
) -> TableCostModel | None:
    """The cost model of this search; None for other objectives, and where the model's layers are unknown.

    `siblings` selects deployments; `stored_settings` are settings whose weights are in the store.
    """
    time = prepared.time_objective
    if time is None:
        return None
    predictor_of = cache(partial(LatencyPredictor, prepared, measurer, None, ""))
    try:
        predictor = predictor_of(time)
    except UnknownAnatomy as reason:
        log.info("sampler: %s", reason)
        return None
    bounds = [TimeLimit(predictor_of(name), ms) for name, ms in _time_limits(prepared).items()]
    return TableCostModel(prepared, predictor, siblings, stored_settings, bounds)


def _time_limits(prepared: Prepared) -> dict[str, float]:
    """The most ms of each time that is limited, that of a whole call under `LATENCY`."""
    bounds: dict[str, float] = {}
    for limit in limits.limits_of_times(prepared.config.limits, prepared.metric):
        name = LATENCY if limit.measurement in CALL_TIMES else limit.measurement
        bounds[name] = max(LEAST_MS, min(limit.bound, bounds.get(name, math.inf)))
    return bounds


def proposer_of(
    prepared: Prepared,
    total: int,
    siblings: DeploymentSelector,
    cost_model: TableCostModel | None,
    go_on: Callable[[], bool],
    retry_failed: bool = False,
) -> Proposer:
    """The proposer of this search, with its study new or resumed.

    Args:
        total: number of trials of the study.
        siblings: selects the other deployments that a set of weights is measured under.
        cost_model: None where the objectives are not the task's metric and a time that is predicted; the default
            sampler is then TPE.
        go_on: whether there is time for another trial.
        retry_failed: whether recipes that failed in earlier runs are tried again.
    """
    config = prepared.config
    surrogate = None if cost_model is None else _surrogate(prepared, cost_model)

    study = open_study(
        Path(config.mlruns),
        config.study,
        prepared.targets,
        lambda seed: SAMPLERS[config.sampler](seed, prepared.space, surrogate),
        config.seed,
        prepared.parts,
        prepared.environment,
    )
    sampler, forecast = study.sampler, None
    if surrogate is not None and isinstance(sampler, KnownLatency):
        forecast = GainForecast(surrogate, sampler, config.budget.least_gain)
    return Proposer(
        study,
        prepared.space,
        prepared.targets,
        total,
        prepared.recipe,
        siblings,
        partial(limits.violations, prepared),
        config.seed,
        go_on,
        forecast,
        equal_search(prepared),
        retry_failed,
    )


def _surrogate(prepared: Prepared, cost_model: TableCostModel) -> Surrogate:
    limited, time = prepared.config.limits, prepared.time_objective or LATENCY
    metric = metric_named(prepared.metric)
    least = [bound for bound in (limited.min_accuracy, limited.others.get(metric.name)) if bound is not None]
    aims = Aims(
        quality=next(t for t in prepared.targets if t.objective == prepared.metric),
        constant_guess=metric.utility(prepared.constant_guess),
        keep=prepared.config.economy.keep,
        max_log_latency=math.log(_time_limits(prepared).get(time, math.inf)),
        min_quality=max(map(metric.utility, least), default=-np.inf),
        max_loss=np.inf if limited.max_loss is None else metric.drop(limited.max_loss),
    )
    space = prepared.space
    history = StudyHistory(weights_grid(space), space.off, aims.quality, space.canonical, time)
    return Surrogate(history, cost_model, QualityModel(), aims)
