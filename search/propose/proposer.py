"""Asks Optuna, and tells it: baselines first, then anchors, then the sampler; and who waits on a lower rung.

Where an equal search was here before, what it tried comes before the sampler's own ideas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from search.execute.executor import Job
from search.front.outcome import Outcome, Target
from search.propose.rungs import Decisions, Open, Straight
from search.propose.study import GAINS, OUTCOME, PARAMS, RUNGS, SPENT, distribution, outcomes_of
from search.propose.telling import add, finish
from search.space.space import Params, Space, anchors, random_settings
from spaces.knob import Value
from spaces.recipe import Recipe

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
        decisions: who is looked at before it is recovered in full, and who goes on; left out, everybody is.
        made: whether a recipe's weights are at hand, so that nothing is saved by looking at them first.
        before: outcomes of an equal search.
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
        others: Callable[[Recipe], tuple[Recipe, ...]],
        limits: Limits,
        seed: int,
        go_on: Callable[[], bool] = lambda: True,
        decisions: Decisions | None = None,
        made: Callable[[Recipe], bool] = lambda recipe: False,
        before: Sequence[Outcome] = (),
        retry_failed: bool = False,
    ) -> None:
        self._study, self._space, self._targets, self._total = study, space, targets, total
        self._recipe, self._others, self._limits, self._go_on = recipe, others, limits, go_on
        self._decisions, self._made, self._before = decisions or Straight(), made, tuple(before)
        self._anchored = {recipe(settings).digest: settings for settings in anchors(space)}
        self._distributions = {name: distribution(knob) for name, knob in space.searched.items()}
        told = outcomes_of(study)
        self._failed = tuple(o for o in told if retry_failed and o.status == "failed")
        self._outcomes = {o.recipe.digest: o for o in told if o not in self._failed}
        self._rng = np.random.default_rng((seed, len(self._outcomes)))
        self._asked: dict[str, optuna.Trial] = {}
        self._waiting: dict[str, Open] = {}
        self.exhausted = False

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(sorted(self._outcomes.values(), key=lambda o: o.number))

    @property
    def left(self) -> int:
        """How many more trials may begin."""
        return max(0, self._total - len(self._outcomes) - len(self._waiting))

    @property
    def recalled(self) -> frozenset[str]:
        """Digests of recipes that an equal search tried, and this one did not yet."""
        return frozenset(o.recipe.digest for o in self._before if o.recipe.digest not in self._outcomes)

    @property
    def unfinished(self) -> bool:
        """Whether trials are left to begin, or to be taken to their end."""
        return bool(self.left or self._waiting)

    @property
    def gain(self) -> float | None:
        """What the next trial is expected to add, as a share of the hypervolume; None where nobody knows."""
        return self._decisions.gain

    def __iter__(self) -> Iterator[Job]:
        yield from self._interrupted()
        yield from self._baselines()
        yield from self._failed_before()
        yield from self._left_over()
        yield from self._anchors()
        yield from self._before_now()
        yield from self._left_over()
        while self._go_on():
            waiting = self._decisions.promoted(self._study, self._waiting)
            if waiting is not None:
                yield self._promotion(waiting)
            elif not self.left or self.exhausted:
                break
            else:
                trial = self._ask()
                if trial is None:
                    continue
                if self._decisions.enough():
                    self._study.tell(trial, state=TrialState.FAIL)
                    break
                yield self._job(trial)
        while self._go_on() and self._waiting:
            digest, reason = self._decisions.last(self._study, self._waiting)
            yield self._promotion(digest) if not reason else self._dismissal(digest, reason)

    def tell(self, outcome: Outcome) -> Outcome:
        """Record one outcome; returns it with its number. An asked recipe ends its trial, unless it is paused."""
        digest = outcome.recipe.digest
        if outcome.status == "paused":
            return self._paused(outcome)
        self._waiting.pop(digest, None)
        asked = self._asked.pop(digest, None)
        if asked is not None:
            numbered = _with_what_was_seen(outcome, asked).numbered(asked.number)
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
            settings = frozen.user_attrs.get(PARAMS)
            digest = "" if settings is None else self._recipe(settings).digest
            if OUTCOME in frozen.user_attrs:  # it ended between the attribute and the tell
                self._finish(trial, Outcome.from_json(frozen.user_attrs[OUTCOME]))
            elif digest in self._outcomes:  # it was to be answered with what is known
                self._same_as(trial, self._outcomes[digest])
            elif settings is None or digest in self._waiting or not self.left:  # more than the total asks for
                self._study.tell(trial, state=TrialState.FAIL)
            elif RUNGS in frozen.user_attrs:
                told = self._decided(trial, {int(r): float(v) for r, v in frozen.user_attrs[RUNGS].items()})
                if told is not None:
                    self.tell(told)
            else:
                yield self._job(trial)

    def _baselines(self) -> Iterator[Job]:
        """The uncompressed model under every deployment, one job; those that are known left out."""
        deployments = [
            {"runtime.name": runtime, "bits.precision": precision} for runtime, precision in self._space.deployments
        ]
        recipes = [self._recipe({**self._space.off, **deployment}) for deployment in deployments]
        unknown = [r for r in recipes if r.digest not in self._outcomes][: self.left]
        if unknown:
            yield Job(unknown[0], siblings=tuple(unknown[1:]), rung=self._decisions.top, baseline=True)

    def _failed_before(self) -> Iterator[Job]:
        """What failed in earlier runs, once more, in full."""
        for outcome in self._failed:
            if not self.left or not self._go_on():
                return
            settings = self._space.complete({**self._space.off, **outcome.recipe.params})
            if self._recipe(settings).digest != outcome.recipe.digest or not self._space.contains(settings):
                continue  # a baseline outside the searched ranges, which has been tried again by now
            trial = self._ask_for(outcome.recipe.digest, settings)
            if trial is not None:
                yield self._top(trial)

    def _left_over(self) -> Iterator[Job]:
        """Other deployments of weights that were made, left out because a run ended among them or had its fill of
        trials."""
        first: dict[str, Outcome] = {}
        for outcome in self.outcomes:
            if outcome.status == "complete" and not outcome.baseline:
                first.setdefault(outcome.recipe.weights_digest, outcome)
        for outcome in first.values():
            unknown = self._unmeasured(outcome.recipe)[: self.left]
            if unknown and self._go_on():
                yield Job(unknown[0], siblings=tuple(unknown[1:]), rung=self._decisions.top)

    def _anchors(self) -> Iterator[Job]:
        """Recovered in full, whatever lower rungs say: what those are worth is learnt from them."""
        for digest, settings in self._anchored.items():
            if not self.left or not self._go_on():
                return
            trial = self._ask_for(digest, settings)
            if trial is not None:
                yield self._top(trial)

    def _before_now(self) -> Iterator[Job]:
        """What an equal search tried. What it rejected is rejected: the front that was the reason is here by then."""
        tried = {outcome.recipe.digest for outcome in self._before}
        for outcome in sorted(self._before, key=lambda outcome: outcome.status == "rejected"):
            if not self.left or not self._go_on():
                return
            settings = self._space.complete({**self._space.off, **outcome.recipe.params})
            if self._recipe(settings).digest != outcome.recipe.digest or not self._space.contains(settings):
                continue
            trial = self._ask_for(outcome.recipe.digest, settings)
            if trial is None:
                continue
            if outcome.status == "rejected":
                self._asked[outcome.recipe.digest] = trial
                yield Job(outcome.recipe, rejected=outcome.reason, rung=outcome.rung)
            else:
                job = self._job(trial)
                yield replace(job, siblings=tuple(one for one in job.siblings if one.digest in tried))

    def _ask_for(self, digest: str, settings: Params) -> optuna.Trial | None:
        """A trial of these settings; None where they are known or open."""
        if digest in self._outcomes or digest in self._waiting:
            return None
        before = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))  # a killed process's queue
        self._study.enqueue_trial({n: settings[n] for n in self._distributions})
        for _ in range(len(before) + 1):
            trial = self._ask()
            if trial is None or self._recipe(trial.user_attrs[PARAMS]).digest == digest:
                return trial
            self._study.tell(trial, state=TrialState.FAIL)
        return None

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
            digest = self._recipe(settings).digest
            if digest in self._waiting:  # its own trial is still open
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            known = self._outcomes.get(digest)
            if known is None:
                return trial
            self._same_as(trial, known)
        return None

    def _same_as(self, trial: optuna.Trial, known: Outcome) -> None:
        """Answer a trial with the outcome of its recipe, which another trial has."""
        trial.set_user_attr("same_as", known.number)
        self._finish(trial, known)

    def _unknown_draw(self) -> dict[str, Value] | None:
        for _ in range(RANDOM_TRIES):
            drawn = random_settings(self._space, self._rng)
            digest = self._recipe(drawn).digest
            if digest not in self._outcomes and digest not in self._waiting:
                return drawn
        return None

    # What becomes of an open trial.

    def _job(self, trial: optuna.Trial) -> Job:
        """The first job of a trial: a look at a lower rung, its full recovery, or no more than why it is rejected."""
        settings = trial.user_attrs[PARAMS]
        recipe = self._recipe(settings)
        if not recipe.recover or recipe.digest in self._anchored:
            return self._top(trial)
        if self._made(recipe):
            self._expect(trial, range(self._decisions.top))
            return self._top(trial)
        reason, audit = self._decisions.rejected(self._study, settings, trial.number)
        if audit:
            return replace(self._top(trial), audit=audit)
        if reason:
            self._asked[recipe.digest] = trial
            return Job(recipe, rejected=reason)
        rung = self._decisions.next(-1)
        if rung == self._decisions.top:
            return self._top(trial)
        self._asked[recipe.digest] = trial
        return Job(recipe, share=self._decisions.share(rung), rung=rung)

    def _top(self, trial: optuna.Trial) -> Job:
        """Its full recovery, and its siblings."""
        recipe = self._recipe(trial.user_attrs[PARAMS])
        self._asked[recipe.digest] = trial
        others = self._unmeasured(recipe)[: max(0, self.left - 1)]
        return Job(recipe, siblings=tuple(others), rung=self._decisions.top, looks=self._decisions.looks)

    def _unmeasured(self, recipe: Recipe) -> list[Recipe]:
        """Other recipes of the same weights of which nothing is known, and no trial is open."""
        return [r for r in self._others(recipe) if r.digest not in self._outcomes and r.digest not in self._waiting]

    def _paused(self, outcome: Outcome) -> Outcome:
        """Keep what a lower rung saw with the open trial; nobody has decided over it yet."""
        trial = self._asked[outcome.recipe.digest]
        trial.set_user_attr(SPENT, dict(outcome.seconds))
        trial.set_user_attr(RUNGS, {str(rung): value for rung, value in outcome.rungs.items()})
        self._decisions.timed(outcome)
        told = self._decided(trial, outcome.rungs)
        if told is not None:
            return self.tell(told)
        self._expect(trial, [max(outcome.rungs)])
        return outcome.numbered(trial.number)

    def _expect(self, trial: optuna.Trial, rungs: Iterable[int]) -> None:
        """Note what is expected of the trial now, for those that are compared with it on `rungs` later."""
        gain = self._decisions.expected(self._study, trial.user_attrs[PARAMS])
        if gain is not None:
            trial.set_user_attr(GAINS, {**trial.user_attrs.get(GAINS, {}), **{str(rung): gain for rung in rungs}})

    def _decided(self, trial: optuna.Trial, rungs: Mapping[int, float]) -> Outcome | None:
        """Of a trial that a rung has seen: its outcome if it is rejected; otherwise it waits."""
        settings = trial.user_attrs[PARAMS]
        recipe = self._recipe(settings)
        self._asked[recipe.digest] = trial
        reason, audit = self._decisions.rejected(self._study, settings, trial.number)
        if reason and not audit:
            return Outcome(-1, recipe, "rejected", reason, rung=max(rungs))
        self._waiting[recipe.digest] = Open(settings, dict(rungs), audit)
        return None

    def _promotion(self, digest: str) -> Job:
        waiting = self._waiting.pop(digest)
        rung = self._decisions.next(waiting.rung)
        if rung == self._decisions.top or waiting.audit:
            return replace(self._top(self._asked[digest]), audit=waiting.audit)
        return Job(self._recipe(waiting.settings), share=self._decisions.share(rung), rung=rung)

    def _dismissal(self, digest: str, reason: str) -> Job:
        return Job(self._recipe(self._waiting[digest].settings), rejected=reason, rung=self._waiting[digest].rung)

    # How outcomes are recorded.

    def _finish(self, trial: optuna.Trial, outcome: Outcome) -> None:
        finish(self._study, trial, outcome, self._targets, self._limits, self._decisions.guess)

    def _add(self, outcome: Outcome) -> Outcome:
        numbered = outcome.numbered(len(self._study.get_trials(deepcopy=False)))
        settings: dict[str, Any] = {**self._space.off, **outcome.recipe.params}
        add(self._study, self._space, numbered, settings, self._targets, self._limits, self._distributions)
        return numbered


def _with_what_was_seen(outcome: Outcome, trial: optuna.Trial) -> Outcome:
    """With what lower rungs saw of the trial, and what they cost, where the outcome does not say."""
    rungs = {int(rung): float(value) for rung, value in trial.user_attrs.get(RUNGS, {}).items()}
    return replace(outcome, rungs=outcome.rungs or rungs, seconds=outcome.seconds or trial.user_attrs.get(SPENT, {}))
