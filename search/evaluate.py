"""Job to outcomes: build the weights, then measure them under every runtime and width asked for.

The one place that catches broadly: whatever goes wrong with a candidate becomes its outcome's status and reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from objectives import objective_named
from objectives.measurement import Measurement
from objectives.process import RemoteTimeout
from search.errors import disk_is_full
from search.front import LATENCY, Front, Outcome, Status
from search.limits import broken
from search.loop import Job
from search.making import Maker
from search.measurer import Measurer, Progress, Stopwatch
from search.setting import Setting
from search.store import digest_in
from search.wording import quantity
from spaces.axis import Infeasible
from spaces.base import WEIGHTS
from spaces.recipe import Recipe


class OutOfTime(Exception):  # noqa: N818 - the run's own limit, not an error
    """The run's time limit passed while a candidate was evaluated; its trial stays open for the next run."""


class Deadline(Protocol):
    """The run's time limit; the finalists have the part of it that the search may not use."""

    @property
    def search_deadline(self) -> float | None: ...


class Evaluator:
    """Evaluates jobs one after the other."""

    def __init__(self, setting: Setting, progress: Progress, clock: Deadline) -> None:
        self._setting, self._progress, self._clock = setting, progress, clock
        self._watch = Stopwatch()
        self.measurer = Measurer(setting, progress, self._limit_s, self._watch)
        self.maker = Maker(setting, progress, self._limit_s)
        self._fast_enough: set[str] = set()  # recipes whose latency was seen to keep the limit
        self.finishing = False  # the finalists' turn: the search's own deadline is over

    def __call__(self, job: Job) -> Iterator[Outcome]:
        self._watch.seconds.clear()
        if job.rejected:
            yield self._outcome(job, job.recipe, "rejected", job.rejected)
            return
        recipes = (job.recipe, *job.siblings)
        if job.share < 1:
            yield self._looked_at(job)
            return
        refused = self._too_slow(job, recipes) if job.recipe.recover else {}
        left = [r for r in recipes if r.digest not in refused]
        folder: Path | None = None
        failure: tuple[Status, str] | None = None
        if left:
            try:
                with self._watch.timed("weights"):
                    folder = self.maker.weights(job.recipe, job.looks)
                if job.recipe.recover:  # lower rungs have trained a part of it
                    trained = self.maker.seen(folder).trained_s
                    self._watch.seconds["weights"] = max(trained, self._watch.seconds["weights"])
            except Exception as error:
                failure = self._status_of(error)
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
        return self.maker.weights(recipe)

    def again(self, outcome: Outcome, folder: Path) -> Outcome:
        """A measured outcome, measured on the weights in `folder`, which are other numbers now."""
        job = Job(outcome.recipe, rung=outcome.rung, baseline=outcome.baseline, audit=outcome.audit)
        return self._measured(outcome.recipe, folder, job).numbered(outcome.number)

    def observe(self, outcome: Outcome, front: Front) -> None:
        """Keep nothing of a training that was given up; an observer."""
        if outcome.status not in ("complete", "paused") and outcome.recipe.recover:
            self.maker.forget(outcome.recipe)

    def _looked_at(self, job: Job) -> Outcome:
        """A candidate on a lower rung: paused, with what was seen."""
        try:
            seen, beside = self.maker.look(job.recipe, job.share)
        except Exception as error:
            return self._outcome(job, job.recipe, *self._status_of(error))
        self._watch.seconds |= {"look": beside, "weights": seen.trained_s}
        rungs = seen.by_rung(self.maker.shares)
        reached = quantity(rungs[job.rung], "fraction")
        reason = f"{self._setting.metric} {reached} after {job.share:.0%} of its recovery"
        return replace(self._outcome(job, job.recipe, "paused", reason), rungs=rungs)

    def _measured(self, recipe: Recipe, folder: Path, job: Job) -> Outcome:
        """One recipe, measured; what goes wrong is its status."""
        try:
            found = self.measurer.measured(recipe, folder)
            self._all_there(found)
        except Exception as error:
            return self._outcome(job, recipe, *self._status_of(error))
        made = self._outcome(job, recipe, "complete", "")
        rungs = self.maker.seen(folder).by_rung(self.maker.shares)
        digest = digest_in(folder, WEIGHTS)
        made = replace(made, measurements=found, folder=str(folder), rungs=rungs, made=digest)
        return replace(made, limits_broken=broken(self._setting, made))

    def _all_there(self, found: Mapping[str, Measurement]) -> None:
        """Raise LookupError when what the search weighs or limits was not measured: no counter, or too few calls."""
        wanted = (*(t.objective for t in self._setting.targets), *self._setting.config.limits.others)
        absent = [name for name in wanted if name not in found]
        if absent:
            about = "; ".join(f"{name} ({objective_named(name).description})" for name in absent)
            raise LookupError(f"this machine did not give {about}")

    def _too_slow(self, job: Job, recipes: tuple[Recipe, ...]) -> Mapping[str, Outcome]:
        """Those over the latency limit, by digest, measured on untrained weights of the same shapes.

        Only when all are over it, because otherwise the weights are trained in any case.
        """
        limit = self._setting.config.limits.max_latency_ms
        if limit is None or job.recipe.digest in self._fast_enough:
            return {}
        refused: dict[str, Outcome] = {}
        for recipe in recipes:
            untrained = replace(recipe, recover={})
            try:
                folder = self.weights(untrained)
                with self.measurer.opened(recipe, folder) as bench:
                    timed = self.measurer.timings(bench, recipe, folder)
            except Exception as error:
                refused[recipe.digest] = self._outcome(job, recipe, *self._status_of(error))
                continue
            if timed[LATENCY].interval[0] <= limit:
                self._fast_enough.add(job.recipe.digest)
                return {}
            reason = f"before training: latency {timed[LATENCY].value:.2f} ms is over the limit of {limit:g} ms"
            refused[recipe.digest] = replace(self._outcome(job, recipe, "rejected", reason), measurements=timed)
        return refused

    def _limit_s(self) -> float:
        """Seconds one step may take: the trial's limit, cut to what is left of the run."""
        limit = float(self._setting.config.budget.trial_timeout)
        end = self._clock.search_deadline
        return limit if end is None or self.finishing else max(1.0, min(limit, end - time.monotonic()))

    def _status_of(self, error: Exception) -> tuple[Status, str]:
        """What an exception means for a trial, in one line.

        Raises OutOfTime when it is the run that ended, and `error` itself when no trial could go on: a full disk.
        """
        if disk_is_full(error):
            raise error
        end = self._clock.search_deadline
        if isinstance(error, RemoteTimeout) and end is not None and time.monotonic() >= end:
            raise OutOfTime from error
        if isinstance(error, Infeasible):
            return "infeasible", str(error)
        text = " ".join(str(error).split())
        return "failed", f"{type(error).__name__}: {text}"[:500]

    def _outcome(self, job: Job, recipe: Recipe, status: Status, reason: str) -> Outcome:
        seconds = {name: round(value, 3) for name, value in self._watch.seconds.items()}
        return Outcome(
            -1,
            recipe,
            status,
            reason,
            rung=job.rung,
            seconds=seconds,
            baseline=job.baseline,
            audit=job.audit if recipe.digest == job.recipe.digest else "",
        )
