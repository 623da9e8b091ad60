"""Asks Optuna, and tells it: baselines first, then anchors, then the sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.front import Outcome, Target
from search.loop import Job
from search.propose.study import OUTCOME, distribution, outcomes_of
from search.space import Params, Space, anchors, random_settings
from spaces.axis import Value
from spaces.recipe import Recipe

PARAMS = "params"  # trial attribute: all settings, also those Optuna does not draw
#: After so many known recipes in a row the sampler is helped with a random draw, and after so many of those it ends.
KNOWN_IN_A_ROW = 5
RANDOM_TRIES = 500

Limits = Callable[[Outcome], Mapping[str, float]]


class Proposer:
    """Iterates jobs until the study holds `total` outcomes or the space is exhausted.

    Args:
        recipe: settings to a recipe.
        others: recipe to the recipes of the same weights that are to be measured beside it.
        limits: outcome to constraint values, at most 0 when kept; always the same names.
        go_on: whether there is time for another job.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        targets: tuple[Target, ...],
        total: int,
        recipe: Callable[[Params], Recipe],
        others: Callable[[Recipe], tuple[Recipe, ...]],
        limits: Limits,
        seed: int,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._study, self._space, self._targets, self._total = study, space, targets, total
        self._recipe, self._others, self._limits, self._go_on = recipe, others, limits, go_on
        self._distributions = {name: distribution(knob) for name, knob in space.searched.items()}
        self._outcomes = {o.recipe.digest: o for o in outcomes_of(study)}
        self._rng = np.random.default_rng((seed, len(self._outcomes)))
        self._asked: dict[str, optuna.Trial] = {}
        self.exhausted = False

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(sorted(self._outcomes.values(), key=lambda o: o.number))

    @property
    def left(self) -> int:
        return max(0, self._total - len(self._outcomes))

    def __iter__(self) -> Iterator[Job]:
        yield from self._interrupted()
        yield from self._baselines()
        yield from self._anchors()
        while self.left and self._go_on() and not self.exhausted:
            trial = self._ask()
            if trial is not None:
                yield self._job(trial)

    def tell(self, outcome: Outcome) -> Outcome:
        """Record one outcome; returns it with its number. An asked recipe ends its trial, others are added."""
        digest = outcome.recipe.digest
        asked = self._asked.pop(digest, None)
        if asked is not None:
            numbered = outcome.numbered(asked.number)
            asked.set_user_attr(OUTCOME, numbered.to_json())
            self._finish(asked, numbered)
        else:
            numbered = self._add(outcome)
        self._outcomes[digest] = numbered
        return numbered

    # Where jobs come from.

    def _interrupted(self) -> Iterator[Job]:
        """Trials that a killed process left running; the caller holds the study's lock, so they are nobody's."""
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial = optuna.Trial(self._study, frozen._trial_id)
            if OUTCOME in frozen.user_attrs:  # it ended between the attribute and the tell
                self._finish(trial, Outcome.from_json(frozen.user_attrs[OUTCOME]))
            elif PARAMS not in frozen.user_attrs or not self.left:  # more than the total asks for
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                yield self._job(trial)

    def _baselines(self) -> Iterator[Job]:
        """The uncompressed model under every pair of runtime and width, one job; those that are known left out."""
        pairs = [{"runtime.name": runtime, "bits.width": width} for runtime, width in self._space.pairs]
        recipes = [self._recipe({**self._space.off, **pair}) for pair in pairs]
        unknown = [r for r in recipes if r.digest not in self._outcomes][: self.left]
        if unknown:
            yield Job(unknown[0], siblings=tuple(unknown[1:]), baseline=True)

    def _anchors(self) -> Iterator[Job]:
        for settings in anchors(self._space):
            if not self.left or not self._go_on():
                return
            if self._recipe(settings).digest not in self._outcomes:
                self._study.enqueue_trial({n: settings[n] for n in self._distributions}, skip_if_exists=True)
                trial = self._ask()
                if trial is not None:
                    yield self._job(trial)

    def _ask(self) -> optuna.Trial | None:
        """A trial whose recipe is new; known ones are answered at once. None when the space is exhausted."""
        for attempt in range(KNOWN_IN_A_ROW + 1):
            if attempt == KNOWN_IN_A_ROW:
                drawn = self._unknown_draw()
                if drawn is None:
                    self.exhausted = True
                    return None
                self._study.enqueue_trial({n: drawn[n] for n in self._distributions})
            trial = self._study.ask(self._distributions)
            settings = self._space.complete(trial.params)
            trial.set_user_attr(PARAMS, settings)
            known = self._outcomes.get(self._recipe(settings).digest)
            if known is None:
                return trial
            trial.set_user_attr("same_as", known.number)
            self._finish(trial, known)
        return None

    def _unknown_draw(self) -> dict[str, Value] | None:
        for _ in range(RANDOM_TRIES):
            drawn = random_settings(self._space, self._rng)
            if self._recipe(drawn).digest not in self._outcomes:
                return drawn
        return None

    def _job(self, trial: optuna.Trial) -> Job:
        recipe = self._recipe(trial.user_attrs[PARAMS])
        self._asked[recipe.digest] = trial
        others = [r for r in self._others(recipe) if r.digest not in self._outcomes]
        return Job(recipe, siblings=tuple(others[: self.left - 1]))

    # How outcomes are recorded.

    def _values(self, outcome: Outcome) -> list[float] | None:
        if outcome.status != "complete":
            return None
        return [outcome.value(t.objective) for t in self._targets]

    def _finish(self, trial: optuna.Trial, outcome: Outcome) -> None:
        values = self._values(outcome)
        if values is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, violation in self._limits(outcome).items():
            trial.set_constraint(name, violation)
        self._study.tell(trial, values)

    def _add(self, outcome: Outcome) -> Outcome:
        """A finished trial that was not asked for: a sibling, or a baseline.

        A baseline outside the searched ranges is kept as a trial without values: a sampler could not place it.
        """
        number = len(self._study.get_trials(deepcopy=False))
        numbered = outcome.numbered(number)
        settings = {**self._space.off, **outcome.recipe.params}
        values = self._values(numbered)
        inside = self._space.contains(settings)
        attributes: dict[str, Any] = {OUTCOME: numbered.to_json(), PARAMS: settings}
        if values is None or not inside:
            trial: FrozenTrial = create_trial(state=TrialState.FAIL, user_attrs=attributes)
        else:
            trial = create_trial(
                values=values,
                params={n: settings[n] for n in self._distributions},
                distributions=self._distributions,
                user_attrs=attributes,
                constraints=dict(self._limits(numbered)),
            )
        self._study.add_trial(trial)
        return numbered
