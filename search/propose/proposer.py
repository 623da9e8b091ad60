"""The order of a search's jobs: baselines, anchors, the trials of an earlier equal search, then the sampler.

Trials come from an Optuna study (`ask`), which receives their outcomes (`tell`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from search.execute.executor import Job
from search.front.outcome import Outcome, Target
from search.propose.known_latency import GainForecast
from search.propose.study import OUTCOME, PARAMS, distribution, outcomes_of
from search.propose.trials import Constraints, add, finish_trial, reopened
from search.space.deployments import fixed_precision
from search.space.space import Params, Space, anchors, random_settings
from spaces.knob import Value
from spaces.recipe import Recipe

#: After this many recipes in a row that have an outcome a random one is proposed. After `RANDOM_TRIES` random recipes
#: that have outcomes the space counts as exhausted.
KNOWN_IN_A_ROW = 5
RANDOM_TRIES = 500


class Proposer:
    """Iterates jobs until the study holds `total` outcomes or the space is exhausted.

    Args:
        recipe: maps settings to a recipe.
        siblings: maps a recipe to the other recipes of the same weights to measure with it.
        limits: maps an outcome to constraint values by name, always the same names; at most 0 where the limit is kept.
        seed: of random recipes.
        go_on: whether there is time for another job.
        forecast: the expected gain of the next trial; the search ends when it is too small.
        earlier: outcomes of an equal search.
        retry_failed: whether recipes that failed in earlier runs are tried again, each as a trial of its own that
            takes the failed one's place.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        targets: tuple[Target, ...],
        total: int,
        recipe: Callable[[Params], Recipe],
        siblings: Callable[[Recipe], tuple[Recipe, ...]],
        limits: Constraints,
        seed: int,
        go_on: Callable[[], bool] = lambda: True,
        forecast: GainForecast | None = None,
        earlier: Sequence[Outcome] = (),
        retry_failed: bool = False,
    ) -> None:
        self._study, self._space, self._targets, self._total = study, space, targets, total
        self._recipe, self._siblings, self._limits, self._go_on = recipe, siblings, limits, go_on
        self._forecast, self._earlier = forecast, tuple(earlier)
        self._anchored = {recipe(settings).digest: settings for settings in anchors(space)}
        self._distributions = {name: distribution(knob) for name, knob in space.searched.items()}
        outcomes = outcomes_of(study)
        self._failed = tuple(o for o in outcomes if retry_failed and o.status == "failed")
        self._outcomes = {o.recipe.digest: o for o in outcomes if o not in self._failed}
        self._rng = np.random.default_rng((seed, len(self._outcomes)))
        self._asked: dict[str, optuna.Trial] = {}
        self.exhausted = False

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """All outcomes so far, by number."""
        return tuple(sorted(self._outcomes.values(), key=lambda o: o.number))

    @property
    def left(self) -> int:
        """The number of trials that may still begin."""
        return max(0, self._total - len(self._outcomes))

    @property
    def recalled(self) -> frozenset[str]:
        """Digests of the recipes that the earlier equal search tried and this search has not tried yet."""
        return frozenset(o.recipe.digest for o in self._earlier if o.recipe.digest not in self._outcomes)

    @property
    def gain(self) -> float | None:
        """The expected gain of the next trial as a share of the hypervolume; None where it cannot be predicted."""
        return None if self._forecast is None else self._forecast.gain

    def __iter__(self) -> Iterator[Job]:
        yield from self._interrupted()
        yield from self._baselines()
        yield from self._retries()
        yield from self._missing_siblings()
        yield from self._anchors()
        yield from self._from_earlier()
        yield from self._missing_siblings()
        while self._go_on() and self.left:
            trial = self._ask()
            if trial is None:  # the space is exhausted
                break
            if self._forecast is not None and self._forecast.enough:
                self._study.tell(trial, state=TrialState.FAIL)
                break
            yield self._job(trial)

    def tell(self, outcome: Outcome) -> Outcome:
        """Record one outcome, and end its trial if it has one; returns it with its number."""
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

    # Sources of jobs.

    def _interrupted(self) -> Iterator[Job]:
        """Trials that a killed process left running (the caller holds the lock, so no other process runs them)."""
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial = reopened(self._study, frozen)
            settings = frozen.user_attrs.get(PARAMS)
            digest = "" if settings is None else self._recipe(settings).digest
            if OUTCOME in frozen.user_attrs:  # the process ended between the attribute and the tell
                self._finish(trial, Outcome.from_json(frozen.user_attrs[OUTCOME]))
            elif digest in self._outcomes:  # its recipe has an outcome
                self._same_as(trial, self._outcomes[digest])
            elif settings is None or not self.left:  # beyond the total
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                yield self._job(trial)

    def _baselines(self) -> Iterator[Job]:
        """One job: the uncompressed model under every deployment that has no outcome yet."""
        uncompressed = {**self._space.off, **fixed_precision(self._space.knobs)}
        recipes = [self._recipe({**uncompressed, **deployment.settings}) for deployment in self._space.deployments]
        unknown = [r for r in recipes if r.digest not in self._outcomes][: self.left]
        if unknown:
            yield Job(unknown[0], siblings=tuple(unknown[1:]), baseline=True)

    def _retries(self) -> Iterator[Job]:
        """Recipes that failed in earlier runs."""
        for outcome in self._failed:
            if not self.left or not self._go_on():
                return
            settings = self._space.complete({**self._space.off, **outcome.recipe.params})
            if self._recipe(settings).digest != outcome.recipe.digest or not self._space.contains(settings):
                continue  # a baseline outside the searched ranges: `_baselines` has retried it
            trial = self._ask_for(outcome.recipe.digest, settings)
            if trial is not None:
                yield self._job(trial)

    def _missing_siblings(self) -> Iterator[Job]:
        """Unmeasured deployments of weights that are built: an earlier run ended, or reached its total, among them."""
        first: dict[str, Outcome] = {}
        for outcome in self.outcomes:
            if outcome.status == "complete" and not outcome.baseline:
                first.setdefault(outcome.recipe.weights_digest, outcome)
        for outcome in first.values():
            unknown = self._unmeasured(outcome.recipe)[: self.left]
            if unknown and self._go_on():
                yield Job(unknown[0], siblings=tuple(unknown[1:]))

    def _anchors(self) -> Iterator[Job]:
        """Fixed reference settings (`search.space.space.anchors`)."""
        for digest, settings in self._anchored.items():
            if not self.left or not self._go_on():
                return
            trial = self._ask_for(digest, settings)
            if trial is not None:
                yield self._job(trial)

    def _from_earlier(self) -> Iterator[Job]:
        """The trials of the equal search, in its order."""
        tried = {outcome.recipe.digest for outcome in self._earlier}
        for outcome in self._earlier:
            if not self.left or not self._go_on():
                return
            settings = self._space.complete({**self._space.off, **outcome.recipe.params})
            if self._recipe(settings).digest != outcome.recipe.digest or not self._space.contains(settings):
                continue
            trial = self._ask_for(outcome.recipe.digest, settings)
            if trial is None:
                continue
            job = self._job(trial)
            yield replace(job, siblings=tuple(one for one in job.siblings if one.digest in tried))

    def _ask_for(self, digest: str, settings: Params) -> optuna.Trial | None:
        """A trial of these settings; None where their recipe has an outcome or a running trial."""
        if digest in self._outcomes:
            return None
        queued = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))  # by a killed process
        self._study.enqueue_trial({n: settings[n] for n in self._distributions})
        for _ in range(len(queued) + 1):
            trial = self._ask()
            if trial is None or self._recipe(trial.user_attrs[PARAMS]).digest == digest:
                return trial
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _ask(self) -> optuna.Trial | None:
        """A trial with a new recipe; None once the space is exhausted. Trials of known recipes end at once."""
        for attempt in range(KNOWN_IN_A_ROW + 1):
            if attempt == KNOWN_IN_A_ROW:
                drawn = self._random_unknown()
                if drawn is None:
                    self.exhausted = True
                    return None
                self._study.enqueue_trial({n: drawn[n] for n in self._distributions})
            trial = self._study.ask(self._distributions)
            settings = self._space.complete(trial.params)
            trial.set_user_attr(PARAMS, settings)
            digest = self._recipe(settings).digest
            earlier = self._outcomes.get(digest)
            if earlier is None:
                return trial
            self._same_as(trial, earlier)
        return None

    def _same_as(self, trial: optuna.Trial, earlier: Outcome) -> None:
        """Tell a trial the outcome that another trial of its recipe has."""
        trial.set_user_attr("same_as", earlier.number)
        self._finish(trial, earlier)

    def _random_unknown(self) -> dict[str, Value] | None:
        for _ in range(RANDOM_TRIES):
            drawn = random_settings(self._space, self._rng)
            if self._recipe(drawn).digest not in self._outcomes:
                return drawn
        return None

    # Open trials.

    def _job(self, trial: optuna.Trial) -> Job:
        """The recipe of an open trial, and its siblings."""
        recipe = self._recipe(trial.user_attrs[PARAMS])
        self._asked[recipe.digest] = trial
        siblings = self._unmeasured(recipe)[: max(0, self.left - 1)]
        return Job(recipe, siblings=tuple(siblings))

    def _unmeasured(self, recipe: Recipe) -> list[Recipe]:
        """Recipes of the same weights that have no outcome."""
        return [r for r in self._siblings(recipe) if r.digest not in self._outcomes]

    # Records of outcomes.

    def _finish(self, trial: optuna.Trial, outcome: Outcome) -> None:
        finish_trial(self._study, trial, outcome, self._targets, self._limits)

    def _add(self, outcome: Outcome) -> Outcome:
        numbered = outcome.numbered(len(self._study.get_trials(deepcopy=False)))
        settings: dict[str, Any] = {**self._space.off, **outcome.recipe.params}
        add(self._study, self._space, numbered, settings, self._targets, self._limits, self._distributions)
        return numbered
