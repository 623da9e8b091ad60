"""Assembly of a search's proposer: the cost model, the surrogate, the sampler and the study."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from objectives.quality import metric_named
from search.measure import limits
from search.measure.measurer import Measurer
from search.prepare.prepared import Prepared
from search.propose.deployment_choice import DeploymentSelector
from search.propose.equal_search import equal_search
from search.propose.known_latency import GainForecast, KnownLatency, weights_grid
from search.propose.proposer import Proposer
from search.propose.samplers import SAMPLERS
from search.propose.study import open_study
from search.propose.surrogate.cost_model import TableCostModel
from search.propose.surrogate.history import StudyHistory
from search.propose.surrogate.latency_predictor import LatencyPredictor, UnknownAnatomy
from search.propose.surrogate.quality import QualityModel
from search.propose.surrogate.surrogate import Aims, Surrogate
from search.space.space import Params

log = logging.getLogger(__name__)


def cost_model_of(
    prepared: Prepared, measurer: Measurer, siblings: DeploymentSelector, stored_settings: Sequence[Params] = ()
) -> TableCostModel | None:
    """The cost model of this search; None for other objectives, and where the model's layers are unknown.

    `siblings` selects deployments; `stored_settings` are settings whose weights are in the store.
    """
    if not prepared.weighs_quality_and_latency:
        return None
    try:
        return TableCostModel(prepared, LatencyPredictor(prepared, measurer), siblings, stored_settings)
    except UnknownAnatomy as reason:
        log.info("sampler: %s", reason)
        return None


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
        cost_model: None where the objectives are not the task's metric and the main latency; the default sampler is
            then TPE.
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
    limited = prepared.config.limits
    metric = metric_named(prepared.metric)
    least = [bound for bound in (limited.min_accuracy, limited.others.get(metric.name)) if bound is not None]
    aims = Aims(
        quality=next(t for t in prepared.targets if t.objective == prepared.metric),
        constant_guess=metric.utility(prepared.constant_guess),
        keep=prepared.config.economy.keep,
        max_log_latency=np.inf if limited.max_latency_ms is None else math.log(limited.max_latency_ms),
        min_quality=max(map(metric.utility, least), default=-np.inf),
        max_loss=np.inf if limited.max_loss is None else metric.drop(limited.max_loss),
    )
    space = prepared.space
    history = StudyHistory(weights_grid(space), space.off, aims.quality, space.canonical)
    return Surrogate(history, cost_model, QualityModel(), aims)
