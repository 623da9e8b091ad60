"""The search's proposer: the study, and with it what is known of recipes before they are built."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from objectives import clock
from search import limits
from search.front import LATENCY, Outcome
from search.setting import Setting
from spaces.recipe import Recipe

if TYPE_CHECKING:
    from search.compose import Siblings
    from search.knowledge import TableKnowledge
    from search.propose import Ladder, Outlook, Proposer


def proposer_of(
    setting: Setting,
    total: int,
    siblings: Siblings,
    knowledge: TableKnowledge | None,
    go_on: Callable[[], bool],
    made: Callable[[Recipe], bool] = lambda recipe: False,
    retry_failed: bool = False,
) -> Proposer:
    """The study of this setting, new or resumed, with what it is to try next.

    `knowledge` is None where the search is not about the task's metric and the main latency: then everybody is
    trained in full, and the default sampler is TPE.
    """
    from search.propose import SAMPLERS, KnownLatency, Proposer, open_study

    config = setting.config
    outlook = None if knowledge is None else _outlook(setting, knowledge)

    study = open_study(
        Path(config.mlruns),
        config.study,
        setting.targets,
        lambda seed: SAMPLERS[config.sampler](seed, setting.space, outlook),
        config.seed,
        setting.parts,
        setting.environment,
    )
    kept = partial(limits.violations, setting)
    asked = study.sampler
    forecast = (lambda: asked.last) if isinstance(asked, KnownLatency) else (lambda: None)
    decisions = None if outlook is None else _ladder(setting, outlook, forecast)
    return Proposer(
        study,
        setting.space,
        setting.targets,
        total,
        setting.recipe,
        siblings,
        kept,
        config.seed,
        go_on,
        decisions,
        made,
        before(setting),
        retry_failed,
    )


def before(setting: Setting) -> Sequence[Outcome]:
    """What an equal search found on this machine: of this configuration, whatever its name and its budget were."""
    from search.propose.study import same_search

    config = setting.config
    if not config.measure.reuse:
        return ()
    mine = _what_matters(config.to_mapping())

    def alike(about: Any) -> bool:
        if about is None or clock.difference(about["hardware"], setting.environment):
            return False
        return bool(_what_matters(about["config"]) == mine)

    return same_search(Path(config.mlruns), config.study, setting.parts, alike)


def _what_matters(config: Mapping[str, Any]) -> Any:
    """Of a configuration what its study's parts do not say; of model and data they say the content."""
    left = {n: part for n, part in config.items() if n not in ("study", "mlruns", "budget", "model", "data")}
    return json.loads(json.dumps(left))


def informed(setting: Setting) -> bool:
    """Whether the search is about what the model and the table know: the task's metric, and the main latency."""
    return {t.objective for t in setting.targets} == {setting.metric, LATENCY}


def _outlook(setting: Setting, knowledge: TableKnowledge) -> Outlook:
    from search.propose import Aims, Outlook, QualityModel, Record, weights_grid

    wanted = setting.config.limits
    aims = Aims(
        quality=next(t for t in setting.targets if t.objective == setting.metric),
        floor=setting.floor,
        keep=setting.config.economy.keep,
        latest=np.inf if wanted.max_latency_ms is None else math.log(wanted.max_latency_ms),
        least=-np.inf if wanted.min_accuracy is None else wanted.min_accuracy,
        most_lost=np.inf if wanted.max_loss is None else wanted.max_loss / 100,
    )
    space = setting.space
    record = Record(weights_grid(space), space.off, aims.quality, space.canonical)
    return Outlook(record, knowledge, QualityModel(), aims)


def _ladder(setting: Setting, outlook: Outlook, forecast: Callable[[], float | None]) -> Ladder:
    from search.propose import Bounds, Economy, Ladder, weights_grid

    wanted, recover = setting.config.economy, setting.config.recover
    economy = Economy(
        shares=(*(wanted.rungs if recover.epochs > 0 else ()), 1.0),
        halving=wanted.halving,
        reject=wanted.reject,
        audit=wanted.audit,
        least_gain=setting.config.budget.least_gain,
        seed=setting.config.seed,
    )
    knobs = {name: setting.space.knobs[name] for name in weights_grid(setting.space).values}
    return Ladder(outlook, economy, Bounds(outlook, knobs), forecast)
