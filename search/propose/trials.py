"""Writing outcomes to Optuna's trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.front.outcome import Outcome, Target
from search.propose.study import OUTCOME, PARAMS
from search.space.space import Space

Constraints = Callable[[Outcome], Mapping[str, float]]


def reopened(study: optuna.Study, frozen: FrozenTrial) -> optuna.Trial:
    """The open trial of a stored one that a process left running."""
    return optuna.Trial(study, frozen._trial_id)  # Optuna has no public name for it


def finish_trial(
    study: optuna.Study, trial: optuna.Trial, outcome: Outcome, targets: Sequence[Target], limits: Constraints
) -> None:
    """End an open trial with its outcome's values and constraints; without values it fails."""
    values = values_of(outcome, targets)
    if values is None:
        study.tell(trial, state=TrialState.FAIL)
        return
    for name, violation in limits(outcome).items():
        trial.set_constraint(name, violation)
    study.tell(trial, values)


def add(
    study: optuna.Study,
    space: Space,
    outcome: Outcome,
    settings: Mapping[str, Any],
    targets: Sequence[Target],
    limits: Constraints,
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """Add a finished trial that the sampler did not propose: a sibling or a baseline.

    A baseline outside the searched ranges becomes a failed trial, because the samplers reject such parameters.
    """
    values, projected = values_of(outcome, targets), space.projected(settings)
    attributes: dict[str, Any] = {OUTCOME: outcome.to_json(), PARAMS: dict(settings)}
    if values is None or not space.contains(settings):
        trial: FrozenTrial = create_trial(state=TrialState.FAIL, user_attrs=attributes)
    else:
        trial = create_trial(
            values=values,
            params={n: projected[n] for n in distributions},
            distributions=dict(distributions),
            user_attrs=attributes,
            constraints=dict(limits(outcome)),
        )
    study.add_trial(trial)


def values_of(outcome: Outcome, targets: Sequence[Target]) -> list[float] | None:
    """The value of each target; None for an outcome that is not complete."""
    if outcome.status != "complete":
        return None
    return [outcome.value(t.objective) for t in targets]
