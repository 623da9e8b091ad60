"""Job to outcomes: build the weights, then measure them under every runtime and precision asked for.

The one place that catches broadly: whatever goes wrong with a candidate becomes its outcome's status and reason. A
mistake in our own code is no candidate's failure, and ends the run (`search.failures`).
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from objectives import objective_named
from objectives.measurement import Measurement
from objectives.process import RemoteTimeout
from search import run_log
from search.deadline import Clock, OutOfTime
from search.errors import disk_is_full
from search.execute.build_weights import trained_s
from search.execute.executor import Job
from search.execute.weights import WeightsBuilder
from search.failures import is_transient, of_the_candidate, once_more
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome, Status
from search.front.wording import describe
from search.measure.limits import broken
from search.measure.measurer import Measurer, Progress, Stopwatch
from search.prepare.prepared import Prepared
from search.store.store import digest_in
from spaces.base import WEIGHTS
from spaces.errors import Infeasible
from spaces.recipe import Recipe

log = logging.getLogger(__name__)
Made = TypeVar("Made")


class TrialTimeout(TimeoutError):  # noqa: N818 - as TimeoutError is one
    """All steps of a trial together took longer than they may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"budget.trial_timeout: a trial must end within {seconds:g} s, and this one did not")


class Evaluator:
    """Evaluates jobs one after the other."""

    def __init__(self, prepared: Prepared, progress: Progress, clock: Clock) -> None:
        self._prepared, self._progress, self._clock = prepared, progress, clock
        self._watch = Stopwatch()
        self.measurer = Measurer(prepared, progress, self._limit_s, self._watch)
        self.weights_builder = WeightsBuilder(prepared, progress, self._limit_s)
        self._fast_enough: set[str] = set()  # recipes whose latency was seen to keep the limit
        self._tracebacks: dict[str, str] = {}  # of recipes that failed and have no number yet, by digest
        self.finishing = False  # the finalists' turn: the search's own deadline is over
        self._trial_ends: float | None = None  # monotonic seconds; None between trials

    def __call__(self, job: Job) -> Iterator[Outcome]:
        """The outcomes of one job, all of whose steps together may take `budget.trial_timeout`."""
        self._trial_ends = time.monotonic() + self._most_s
        try:
            yield from self._evaluated(job)
        finally:
            self._trial_ends = None

    def _evaluated(self, job: Job) -> Iterator[Outcome]:
        self._watch.seconds.clear()
        recipes = (job.recipe, *job.siblings)
        refused = self._too_slow(job, recipes) if job.recipe.recover else {}
        left = [r for r in recipes if r.digest not in refused]
        folder: Path | None = None
        failure: tuple[Status, str] | None = None
        if left:
            try:
                with self._watch.timed("weights"):
                    folder = self._twice(lambda: self.weights_builder.get_or_build(job.recipe), job.recipe)
                if job.recipe.recover:  # weights from the store count with the time that their training took
                    trained = trained_s(folder)
                    self._watch.seconds["weights"] = max(trained, self._watch.seconds["weights"])
            except Exception as error:
                failure = self._status_of(error, job.recipe)
        for recipe in recipes:
            if recipe.digest in refused:
                yield refused[recipe.digest]
            elif folder is None:
                assert failure is not None
                yield self._outcome(job, recipe, *failure)
            else:
                yield self._measured(recipe, folder, job)
            self._watch.seconds.clear()  # the weights' time is counted once, with the first

    def weights(self, recipe: Recipe) -> Path:
        """The folder of the recipe's weights: the teacher's own, or made and stored."""
        return self.weights_builder.get_or_build(recipe)

    def again(self, outcome: Outcome, folder: Path) -> Outcome:
        """A measured outcome, measured on the weights in `folder`, which are other numbers now."""
        job = Job(outcome.recipe, baseline=outcome.baseline)
        return self._measured(outcome.recipe, folder, job).numbered(outcome.number)

    def anew(self, outcome: Outcome) -> Outcome:
        """A measured outcome, measured here; its weights are found in the store, or made again."""
        job = Job(outcome.recipe, baseline=outcome.baseline)
        [made] = self(job)
        return made.numbered(outcome.number)

    def observe(self, outcome: Outcome, front: Front) -> None:
        """Log what became of a trial, and keep nothing of a training that was given up; an observer."""
        with run_log.about(f"trial {outcome.number}"):
            why = f": {outcome.reason}" if outcome.reason else ""
            log.info("%s, %s%s, seconds %s", outcome.status, describe(outcome.recipe), why, dict(outcome.seconds))
            if found := self._tracebacks.pop(outcome.recipe.digest, ""):
                log.error("%s", found)
        if outcome.status != "complete" and outcome.recipe.recover:
            self.weights_builder.forget(outcome.recipe)

    def _measured(self, recipe: Recipe, folder: Path, job: Job) -> Outcome:
        """One recipe, measured; what goes wrong is its status."""
        try:
            found = self._twice(lambda: self.measurer.measured(recipe, folder), recipe)
            self._all_there(found)
        except Exception as error:
            return self._outcome(job, recipe, *self._status_of(error, recipe))
        made = self._outcome(job, recipe, "complete", "")
        digest = digest_in(folder, WEIGHTS)
        made = replace(made, measurements=found, folder=self._prepared.written(folder), weights_sha256=digest)
        return replace(made, limits_broken=broken(self._prepared.config.limits, self._prepared.metric, made))

    def _all_there(self, found: Mapping[str, Measurement]) -> None:
        """Raise LookupError when what the search weighs or limits was not measured: no counter, or too few calls."""
        wanted = (*(t.objective for t in self._prepared.targets), *self._prepared.config.limits.others)
        absent = [name for name in wanted if name not in found]
        if absent:
            about = "; ".join(f"{name} ({objective_named(name).description})" for name in absent)
            raise LookupError(f"this machine did not give {about}")

    def _too_slow(self, job: Job, recipes: tuple[Recipe, ...]) -> Mapping[str, Outcome]:
        """Those over the latency limit, by digest, measured on untrained weights of the same shapes.

        Only when all are over it, because otherwise the weights are trained in any case.
        """
        limit = self._prepared.config.limits.max_latency_ms
        if limit is None or job.recipe.digest in self._fast_enough:
            return {}
        refused: dict[str, Outcome] = {}
        for recipe in recipes:
            untrained = replace(recipe, recover={})
            try:
                timed = self._twice(partial(self._timed_untrained, recipe, untrained), recipe)
            except Exception as error:
                refused[recipe.digest] = self._outcome(job, recipe, *self._status_of(error, recipe))
                continue
            if timed[LATENCY].interval[0] <= limit:
                self._fast_enough.add(job.recipe.digest)
                return {}
            reason = f"before training: latency {timed[LATENCY].value:.2f} ms is over the limit of {limit:g} ms"
            refused[recipe.digest] = replace(self._outcome(job, recipe, "rejected", reason), measurements=timed)
        return refused

    def _timed_untrained(self, recipe: Recipe, untrained: Recipe) -> dict[str, Measurement]:
        folder = self.weights(untrained)
        with self.measurer.opened(recipe, folder) as bench:
            return self.measurer.timings(bench, recipe, folder)

    def _twice(self, work: Callable[[], Made], recipe: Recipe) -> Made:
        """`work()`, tried once more after a transient failure while there is time."""
        with run_log.about(f"recipe {recipe.digest[:8]}"):
            return once_more(work, describe(recipe), lambda: not self._time_is_up() and not self._trial_is_over())

    def _time_is_up(self) -> bool:
        end = self._clock.search_deadline
        return not self.finishing and end is not None and time.monotonic() >= end

    @property
    def _most_s(self) -> float:
        """Seconds that a trial may take."""
        return float(self._prepared.config.budget.trial_timeout)

    def _trial_is_over(self) -> bool:
        return self._trial_ends is not None and time.monotonic() >= self._trial_ends

    def _limit_s(self) -> float:
        """Seconds one step may take: what is left of the trial, cut to what is left of the run.

        Raises:
            TrialTimeout: nothing is left of the trial.
        """
        now, end = time.monotonic(), self._clock.search_deadline
        limit = self._most_s if self._trial_ends is None else self._trial_ends - now
        if limit <= 0:
            raise TrialTimeout(self._most_s)
        return limit if end is None or self.finishing else max(1.0, min(limit, end - now))

    def _status_of(self, error: Exception, recipe: Recipe) -> tuple[Status, str]:
        """What an exception means for the trial of `recipe`, in one line.

        Raises OutOfTime when it is the run that ended, and `error` itself where no trial could go on (a full disk) or
        where it is a mistake in this program.
        """
        transient = is_transient(error)
        if disk_is_full(error) or not of_the_candidate(error):
            log.error("the run ends with an error while this was evaluated: %s", describe(recipe))
            raise error
        if (isinstance(error, RemoteTimeout | TrialTimeout) or transient) and self._time_is_up():
            raise OutOfTime from error
        self._tracebacks[recipe.digest] = "".join(traceback.format_exception(error))
        if isinstance(error, RemoteTimeout) and self._trial_is_over():
            error = TrialTimeout(self._most_s)
        text = " ".join(str(error).split())
        if isinstance(error, Infeasible) and not transient:
            return "infeasible", text
        where = run_log.here()
        kind = "" if isinstance(error, TrialTimeout) else f"{type(error).__name__}: "
        return "failed", f"{kind}{text}"[:440] + (f" ({where})" if where else "")

    def _outcome(self, job: Job, recipe: Recipe, status: Status, reason: str) -> Outcome:
        seconds = {name: round(value, 3) for name, value in self._watch.seconds.items()}
        return Outcome(
            -1,
            recipe,
            status,
            reason,
            seconds=seconds,
            baseline=job.baseline,
        )
