"""`run --remeasure`: measure a study's trials again on this machine, before the search goes on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from search.deadline import Clock, OutOfTime
from search.deliver.finishing_time import least_seconds
from search.execute.evaluate import Evaluator
from search.front.formatting import describe, text
from search.front.outcome import LATENCY, Outcome
from search.measure import limits
from search.prepare.prepared import Prepared
from search.report.progress import View
from search.space.deployments import Deployment


def measure_again(prepared: Prepared, view: View, clock: Clock) -> None:
    """Replace the study by one with the same recipes measured here: times, memory and quality, without the cache.

    Weights come from the store or are built again. The study changes only when the last trial is measured; an
    interrupted call is continued by the next one.

    Raises:
        TimeoutError: the run's time limit ended first.
    """
    from search.propose.replacement import Replacement

    config = prepared.config
    replacement = Replacement(
        Path(config.mlruns),
        config.study,
        prepared.space,
        prepared.targets,
        partial(limits.violations, prepared),
        prepared.parts,
        prepared.environment,
    )
    fresh = replace(prepared, config=replace(config, measure=replace(config.measure, reuse=False)))
    evaluate = Evaluator(fresh, view.progress, clock)
    left = replacement.left
    clock.reserve_s = least_seconds(config)  # when all are measured again, the front is exported
    view.say(f"      measuring {len(left)} trials again on this machine: times, memory, and quality")
    for done, outcome in enumerate(left):
        try:
            if not clock.left():
                raise OutOfTime
            measured = measured_here(prepared, evaluate, outcome)
        except OutOfTime as error:
            raise TimeoutError(
                f"the time limit ended when {done} of {len(left)} trials were measured again; the study is as it was, "
                "and the same command goes on there"
            ) from error
        replacement.add(measured)
        view.say(f"{measured.number:>4}  {_change(outcome, measured)}  {describe(measured.recipe)}")
    old_name = replacement.finish()
    view.say(f"      all is measured again; the figures of before stay as the study {old_name}")


def measured_here(prepared: Prepared, evaluate: Evaluator, outcome: Outcome) -> Outcome:
    """The outcome measured on this machine; infeasible where its runtime or precision is not available here."""
    wanted = Deployment.of(outcome.recipe.params)
    if wanted in prepared.space.deployments:
        return evaluate.evaluated_again(outcome)
    what = f"{wanted.precision} kernels"
    if any(d[:2] == wanted[:2] for d in prepared.space.deployments):
        what = f"{wanted.cache.kind} cache"
    why = prepared.space.missing.get(wanted.runtime, f"{wanted.runtime} has no {what} here")
    return Outcome(outcome.number, outcome.recipe, "infeasible", why, baseline=outcome.baseline)


def _change(before: Outcome, after: Outcome) -> str:
    if after.status != "complete":
        return f"{after.status} here: {after.reason}"
    was, now = (one.measurements.get(LATENCY) for one in (before, after))
    return "measured" if was is None or now is None else f"{text(was)}, {text(now)} here"
