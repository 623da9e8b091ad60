"""How outcomes become Optuna's trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.front.outcome import Outcome, Target
from search.propose.study import GUESSED, OUTCOME, PARAMS
from search.space.space import Space

#: The constraint that a rejected trial breaks. It is on every trial, because some samplers want all or none.
REJECTED = "rejected"

Limits = Callable[[Outcome], Mapping[str, float]]
#: Values by objective that stand in for those nobody measured, or None where nothing is known.
Guess = Callable[[Outcome], Mapping[str, float] | None]


def finish(
    study: optuna.Study,
    trial: optuna.Trial,
    outcome: Outcome,
    targets: Sequence[Target],
    limits: Limits,
    guess: Guess,
) -> None:
    """Tell Optuna how an open trial ended.

    What was rejected is complete and breaks a constraint: samplers learn from that, while they ignore what failed or
    was pruned. Its values are what was seen or expected of it, and the trial says which (`GUESSED`).
    """
    values = values_of(outcome, targets)
    if values is not None:
        for name, violation in {**limits(outcome), REJECTED: 0.0}.items():
            trial.set_constraint(name, violation)
        study.tell(trial, values)
        return
    expected = guess(outcome) if outcome.status == "rejected" else None
    if expected is None:
        study.tell(trial, state=TrialState.FAIL)
        return
    expected = {**expected, **{name: m.value for name, m in outcome.measurements.items()}}
    trial.set_user_attr(GUESSED, sorted(t.objective for t in targets if t.objective not in outcome.measurements))
    for name, violation in {**limits(outcome), REJECTED: 1.0}.items():
        trial.set_constraint(name, violation)
    study.tell(trial, [expected[t.objective] for t in targets])


def add(
    study: optuna.Study,
    space: Space,
    outcome: Outcome,
    settings: Mapping[str, Any],
    targets: Sequence[Target],
    limits: Limits,
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """A finished trial that was not asked for: a sibling, or a baseline.

    A baseline outside the searched ranges is kept as a trial without values: a sampler could not place it.
    """
    values = values_of(outcome, targets)
    attributes: dict[str, Any] = {OUTCOME: outcome.to_json(), PARAMS: dict(settings)}
    if values is None or not space.contains(settings):
        trial: FrozenTrial = create_trial(state=TrialState.FAIL, user_attrs=attributes)
    else:
        trial = create_trial(
            values=values,
            params={n: settings[n] for n in distributions},
            distributions=dict(distributions),
            user_attrs=attributes,
            constraints={**limits(outcome), REJECTED: 0.0},
        )
    study.add_trial(trial)


def values_of(outcome: Outcome, targets: Sequence[Target]) -> list[float] | None:
    """What was measured of each target; None for what is not complete."""
    if outcome.status != "complete":
        return None
    return [outcome.value(t.objective) for t in targets]
