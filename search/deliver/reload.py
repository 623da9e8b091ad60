"""Reloads of the exported models: each does what its record says, and is timed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from objectives.campaign import Campaign
from objectives.campaign_processes import Failures, opened
from objectives.memory import PEAK_MEMORY
from objectives.process import Remote
from search.deliver import verify as check
from search.deliver.export import exported_folder
from search.deliver.finishing_time import logging_seconds, timing_seconds
from search.deliver.latency_check import ratio_deviation
from search.deliver.open_exported import open_exported, recorded_context
from search.deliver.read_exported import read_exported
from search.failures import of_the_candidate
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome
from search.measure.measurer import Measurer
from search.measure.timing import BASELINE, Finalist
from search.report.progress import View
from search.tasks import task_named


def reload(measurer: Measurer, front: Front, exports: Path, view: View, left_s: float) -> list[str]:
    """Load every exported model in a fresh process and compare its outputs with its record; returns the problems.

    Where `left_s` seconds allow it, and leave MLflow its time, the models are also timed, in turns with the baseline. A
    line tells where a speedup differs from the record, or why it cannot be told; these are not problems, because the
    machine may have changed since.
    """
    problems: dict[int, str] = {}

    def exported(outcome: Outcome) -> Finalist:
        folder = exported_folder(exports, outcome)
        record = read_exported(folder)
        context = recorded_context(record)
        generates = task_named(record.recipe.task).generates

        @contextmanager
        def opened_on(device: str) -> Iterator[Remote]:
            with open_exported(folder, record, context) as bench:
                if problem := check.outputs(folder, record, context, bench).problem:
                    problems[outcome.number] = problem
                if not generates:
                    yield bench
                    return
            # What scores a model that generates is opened beside what generates, and is not part of what is timed.
            with open_exported(folder, record, context) as bench:
                yield bench

        return Finalist(outcome.recipe, folder, opened_on, outcome.measurements.get(PEAK_MEMORY.name))

    view.progress("reloading", 0.0)
    models = {o.number: exported(o) for o in front.members}
    baseline = [] if front.baseline is None else [front.baseline]
    plans = {"": measurer.times.plan_after_export}
    needed_s = timing_seconds(plans, [*baseline, *front.members]) + logging_seconds(front.members)
    if left_s < needed_s:
        problems |= _open_each(models, measurer.context.device)
        view.say("      after export: the models were not timed, because the time limit leaves no time for it")
    else:
        measured = measurer.times.after_export(models)
        problems |= measured.failed
        _tell_speed(measured, front, problems, view)
    return [f"{number}: {problem}" for number, problem in sorted(problems.items())]


def _open_each(models: Mapping[int, Finalist], device: str) -> dict[int, str]:
    """Open each model, which compares its outputs; why models could not be opened, by key."""
    failed = Failures(lambda error: not of_the_candidate(error))
    for key, model in models.items():
        with opened({key: partial(model.opened, device)}, 1, failed):
            pass
    return failed


def _tell_speed(measured: Campaign, front: Front, problems: Mapping[int, str], view: View) -> None:
    """Say where a speedup differs from the record, or that the machine is too busy to tell."""
    busy = dict.fromkeys(reason for sets in measured.groups for one in sets for reason in one.disturbances)
    if busy:
        view.say(f"      after export: the machine is too busy to tell how fast the models are ({'; '.join(busy)})")
    for outcome in [] if busy else front.members:
        recorded = front.speedup(outcome, front.baseline, LATENCY)  # of whole calls, as it is timed here
        if recorded and outcome.number not in problems:
            now = measured.ratio(BASELINE, outcome.number)
            if strays := ratio_deviation(recorded, now):
                view.say(f"      {outcome.number} after export: {strays}")
