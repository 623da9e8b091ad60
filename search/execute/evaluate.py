"""Evaluation of a job: build the weights, then measure them under the runtimes and precisions of its recipes.

Only this module catches every exception: a candidate's failure becomes its outcome's status and reason. A mistake in
our own code ends the run (`search.failures`).
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from objectives import memory, objective_named
from objectives.generation_times import TTFT
from objectives.measurement import Measurement
from objectives.process import Progress, RemoteTimeout
from search import run_log
from search.deadline import Clock, OutOfTime
from search.errors import disk_is_full
from search.execute.build_weights import trained_s
from search.execute.executor import Job
from search.execute.weights import WeightsBuilder
from search.failures import Returned, is_transient, of_the_candidate, retry_once
from search.front.formatting import describe
from search.front.front import Front
from search.front.outcome import PREDICTED_TIMES, Outcome, Status
from search.measure.limits import Limit, broken, limits_of_shapes, measured_for, surely_broken
from search.measure.measurer import Measurer, Stopwatch
from search.prepare.prepared import Prepared
from search.store.store import digest_in
from spaces import build
from spaces.base import WEIGHTS
from spaces.cache_settings import SPECULATION
from spaces.errors import Infeasible
from spaces.recipe import Recipe

log = logging.getLogger(__name__)


class TrialTimeout(TimeoutError):  # noqa: N818 - named like its base
    """The steps of a trial together took longer than `budget.trial_timeout`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"budget.trial_timeout: a trial must end within {seconds:g} s, and this one did not")


class Evaluator:
    """Evaluates jobs one after the other."""

    def __init__(self, prepared: Prepared, progress: Progress, clock: Clock) -> None:
        self._prepared, self._progress, self._clock = prepared, progress, clock
        self._watch = Stopwatch()
        self.measurer = Measurer(prepared, progress, self._limit_s, self._watch)
        self.weights_builder = WeightsBuilder(prepared, progress, self._limit_s)
        self._within_limits: set[str] = set()  # digests of recipes whose untrained weights keep the limits
        self._tracebacks: dict[str, str] = {}  # of failed recipes that have no number yet, by digest
        self.finishing = False  # the finalists are measured: the search's deadline no longer applies
        self._trial_ends: float | None = None  # monotonic seconds; None between trials

    def __call__(self, job: Job) -> Iterator[Outcome]:
        """The outcomes of one job, whose steps may take `budget.trial_timeout` seconds together."""
        self._trial_ends = time.monotonic() + self._most_s
        try:
            yield from self._evaluated(job)
        finally:
            self._trial_ends = None

    def _evaluated(self, job: Job) -> Iterator[Outcome]:
        self._watch.seconds.clear()
        recipes = (job.recipe, *job.siblings)
        rejected = self._over_limits(job, recipes) if job.recipe.recover else {}
        folder: Path | None = None
        failure: tuple[Status, str] | None = None
        if any(r.digest not in rejected for r in recipes):
            try:
                with self._watch.timed("weights"):
                    folder = self._twice(lambda: self.weights_builder.get_or_build(job.recipe), job.recipe)
                if job.recipe.recover:  # weights from the store count with the seconds of their training
                    trained = trained_s(folder)
                    self._watch.seconds["weights"] = max(trained, self._watch.seconds["weights"])
            except Exception as error:
                failure = self._status_of(error, job.recipe)
        for recipe in recipes:
            if recipe.digest in rejected:
                yield rejected[recipe.digest]
            elif folder is None:
                assert failure is not None
                yield self._outcome(job, recipe, *failure)
            else:
                yield self._measured(recipe, folder, job)
            self._watch.seconds.clear()  # the weights' seconds count once, with the first recipe

    def weights(self, recipe: Recipe) -> Path:
        """The folder of the recipe's weights: the teacher's own, or built and stored."""
        return self.weights_builder.get_or_build(recipe)

    def measured_again(self, outcome: Outcome, folder: Path) -> Outcome:
        """The outcome measured again on the weights in `folder`, which were trained again."""
        job = Job(outcome.recipe, baseline=outcome.baseline)
        return self._measured(outcome.recipe, folder, job).numbered(outcome.number)

    def evaluated_again(self, outcome: Outcome) -> Outcome:
        """The outcome evaluated again; its weights come from the store, or are built again."""
        job = Job(outcome.recipe, baseline=outcome.baseline)
        [evaluated] = self(job)
        return evaluated.numbered(outcome.number)

    def observe(self, outcome: Outcome, front: Front) -> None:
        """Log a trial, and delete the training state of one that did not complete. The loop calls it as an observer."""
        with run_log.about(f"trial {outcome.number}"):
            why = f": {outcome.reason}" if outcome.reason else ""
            log.info("%s, %s%s, seconds %s", outcome.status, describe(outcome.recipe), why, dict(outcome.seconds))
            if trace := self._tracebacks.pop(outcome.recipe.digest, ""):
                log.error("%s", trace)
        if outcome.status != "complete" and outcome.recipe.recover:
            self.weights_builder.forget(outcome.recipe)

    def _measured(self, recipe: Recipe, folder: Path, job: Job) -> Outcome:
        """The outcome of one recipe; an exception becomes its status."""
        try:
            measurements = self._twice(lambda: self.measurer.measured(recipe, folder), recipe)
            self._check_complete(measurements)
        except Exception as error:
            return self._outcome(job, recipe, *self._status_of(error, recipe))
        outcome = self._outcome(job, recipe, "complete", "")
        digest = digest_in(folder, WEIGHTS)
        stored_at = self._prepared.written(folder)
        outcome = replace(outcome, measurements=measurements, folder=stored_at, weights_sha256=digest)
        return replace(outcome, limits_broken=broken(self._prepared.config.limits, self._prepared.metric, outcome))

    def _check_complete(self, measurements: Mapping[str, Measurement]) -> None:
        """Check that a trial has a finite number for everything that is compared or shown.

        Raises:
            LookupError: an objective or a limited figure was not measured: no counter, or too few calls.
            ArithmeticError: a measurement is infinite or no number, as the perplexity of a model that lost all.
        """
        wanted = (*(t.objective for t in self._prepared.targets), *measured_for(self._prepared.config.limits))
        missing = [name for name in wanted if name not in measurements]
        if missing:
            about = "; ".join(f"{name} ({objective_named(name).description})" for name in missing)
            raise LookupError(f"this machine did not give {about}")
        for name, figure in measurements.items():
            if not all(map(math.isfinite, (figure.value, *figure.interval))):
                raise ArithmeticError(f"{name} must be a finite number, got {figure.value}")

    def _over_limits(self, job: Job, recipes: tuple[Recipe, ...]) -> Mapping[str, Outcome]:
        """Outcomes, by digest, of recipes that untrained weights of the same shapes show to be over a limit.

        Empty unless all recipes are: otherwise the weights are trained in any case.
        """
        limits = limits_of_shapes(self._prepared.config.limits, self._prepared.metric)
        bounds = [_of_shapes(limits, recipe) for recipe in recipes]
        if not all(bounds) or job.recipe.digest in self._within_limits:
            return {}
        rejected: dict[str, Outcome] = {}
        for recipe, bounded in zip(recipes, bounds, strict=True):
            untrained = replace(recipe, recover={})
            try:
                measured = self._twice(partial(self._untrained, recipe, untrained), recipe)
            except Exception as error:
                rejected[recipe.digest] = self._outcome(job, recipe, *self._status_of(error, recipe))
                continue
            sentences = surely_broken(bounded, measured)
            if not sentences:
                self._within_limits.add(job.recipe.digest)
                return {}
            reason = f"before training: {'; '.join(sentences)}"
            rejected[recipe.digest] = replace(self._outcome(job, recipe, "rejected", reason), measurements=measured)
        return rejected

    def _untrained(self, recipe: Recipe, untrained: Recipe) -> dict[str, Measurement]:
        """The times and the memory of a recipe, on weights that are not trained."""
        folder = self.weights(untrained)
        with self.measurer.opened(recipe, folder) as bench:
            times = self.measurer.timings(bench, recipe, folder)
            return times | memory.memory(bench)

    def _twice(self, work: Callable[[], Returned], recipe: Recipe) -> Returned:
        """`work()`, tried once more after a transient failure while there is time."""
        with run_log.about(f"recipe {recipe.digest[:8]}"):
            return retry_once(work, describe(recipe), lambda: not self._time_is_up() and not self._trial_is_over())

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
        """Seconds one step may take: the remaining time of the trial, at most that of the run.

        Raises:
            TrialTimeout: the trial's time is used up.
        """
        now, end = time.monotonic(), self._clock.search_deadline
        limit = self._most_s if self._trial_ends is None else self._trial_ends - now
        if limit <= 0:
            raise TrialTimeout(self._most_s)
        return limit if end is None or self.finishing else max(1.0, min(limit, end - now))

    def _status_of(self, error: Exception, recipe: Recipe) -> tuple[Status, str]:
        """(status, one line of reason) of a trial of `recipe` that raised `error`.

        Raises OutOfTime when the run's time is up, and `error` itself when the disk is full or the mistake is in this
        program.
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
        where = run_log.current_log()
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


def _of_shapes(limits: tuple[Limit, ...], recipe: Recipe) -> tuple[Limit, ...]:
    """Those of the limits whose figures are the same for all weights of a recipe's shapes.

    Where tokens are proposed, the time of an answer depends on how many of them the model accepts, so on its training.
    """
    if build.speculation_of(recipe) == SPECULATION[0]:
        return limits
    return tuple(
        limit for limit in limits if limit.measurement not in PREDICTED_TIMES or limit.measurement == TTFT.name
    )
