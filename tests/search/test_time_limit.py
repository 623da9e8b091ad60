"""The end of a run with a time limit: its finalists leave the export the time that it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from objectives.campaign import CampaignPlan
from search import deadline
from search.config.schema import LimitsConfig
from search.deadline import Clock
from search.deliver import finalists, verify
from search.deliver import reload as reloading
from search.deliver.finalists import finalists_of, measure_finalists
from search.deliver.finishing_time import export_seconds, logging_seconds, timing_seconds
from search.front.final import Final
from search.front.front import Front
from search.front.outcome import Outcome
from search.front.study_record import StudyRecord
from spaces.recipe import Recipe
from spaces.runtime import Context

from . import factory

HELD_OUT_S = 20.0
PLAN = CampaignPlan.lasting(2.4)
FRONT = Front(factory.TARGETS, tuple(replace(one, seconds={"quality": HELD_OUT_S}) for one in factory.front().outcomes))
LINES = SimpleNamespace(progress=lambda stage, done: None, say=lambda line: None)


class Machine:
    """A machine on which all takes as long as it is predicted, and every set of a campaign is disturbed."""

    marks = ()

    def __init__(self) -> None:
        self.now = 1000.0
        self.attempts = 0
        self.measurer = self.times = self  # it is the evaluator too

    def plan(self, mark: str) -> CampaignPlan:
        return PLAN

    def weights(self, recipe: Recipe) -> Path:
        return Path("weights")

    def complete(self, recipe: Recipe, folder: Path) -> Path:
        return folder

    def opened(self, recipe: Recipe, folder: Path) -> Any:
        return nullcontext()

    def output(self, recipe: Recipe, folder: Path, opened: object, split: str) -> None:
        self.now += HELD_OUT_S

    def qualities(self, output: object, split: str, recipe: Recipe) -> dict[str, Any]:
        return {}

    def energy(self, opened: object) -> dict[str, Any]:
        return {}

    def finalist(self, recipe: Recipe, folder: Path, peak: object) -> Recipe:
        return recipe

    def inputs(self, mark: str) -> tuple[list[Any], dict[str, Any]]:
        return [], {}

    def final(
        self, models: Mapping[int, Recipe], anchors: Sequence[int], plans: Mapping[str, CampaignPlan], progress: object
    ) -> tuple[Final, dict[int, str]]:
        self.attempts = plans[""].attempts
        self.now += timing_seconds(plans, [one for one in FRONT.outcomes if one.number in models])
        final = factory.campaign(FRONT)
        return replace(final, measurements={n: m for n, m in final.measurements.items() if n in models}), {}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: machine.now))
    earlier = StudyRecord(factory.CONFIG, factory.HARDWARE), Final()
    monkeypatch.setattr(finalists, "load_record", lambda prepared: earlier)
    monkeypatch.setattr(finalists, "digest_in", lambda folder, name: "digest")
    monkeypatch.setattr(verify, "write_reference", lambda *arguments: Path("reference.npz"))
    return machine


def ended(machine: Machine, clock: Clock) -> Front:
    """The front after the finalists were measured."""
    prepared = SimpleNamespace(
        split=lambda name: range(10),
        config=SimpleNamespace(mlruns="mlruns", limits=LimitsConfig()),
        metric="accuracy",
        environment=factory.HARDWARE,
    )
    evaluate, study, view = cast(Any, machine), factory.study(FRONT), cast(Any, LINES)
    return measure_finalists(cast(Any, prepared), evaluate, FRONT, study, view, clock)[0]


@pytest.mark.parametrize("spare_s", [0, 10, 40, 90, 160, 250, 330, 450, 4000])
def test_the_export_has_its_time_left_after_the_finalists(machine: Machine, spare_s: float) -> None:
    export_s = export_seconds(FRONT.members)
    clock = Clock(export_s + spare_s)
    ended(machine, clock)
    assert clock.left_s >= export_s - 1e-6


def test_with_no_time_but_the_export_s_the_front_keeps_its_quick_timings(machine: Machine) -> None:
    front = ended(machine, Clock(export_seconds(FRONT.members) + 10))
    assert front.final == Final() and front.members == FRONT.members
    assert machine.attempts == 0 and machine.now == 1000.0, "no finalist is opened for a campaign that never comes"


def test_what_there_is_time_for_is_timed_and_the_other_members_stay(machine: Machine) -> None:
    front = ended(machine, Clock(export_seconds(FRONT.members) + 160))
    assert front.final.measurements and front.final.late and machine.attempts == 1
    assert front.final.contenders >= {one.number for one in FRONT.members}


@pytest.mark.parametrize("timeout_s", [None, 4000.0])
def test_with_time_enough_every_finalist_is_timed_and_disturbed_sets_again(
    machine: Machine, timeout_s: float | None
) -> None:
    front = ended(machine, Clock(timeout_s))
    assert {one.number for one in FRONT.members} <= front.final.measurements.keys() and not front.final.late
    assert machine.attempts == PLAN.attempts
    assert machine.now >= 1000.0 + HELD_OUT_S * len(finalists_of(FRONT))


def test_exported_models_are_checked_but_not_timed_where_no_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    record = SimpleNamespace(recipe=SimpleNamespace(task="classification"))
    by_number: dict[int, Outcome] = {one.number: one for one in FRONT.members}
    wrong, broken = list(by_number)[:2]
    checked: list[int] = []

    def open_exported(folder: Path, *_: object) -> Any:
        if int(folder.name) == broken:
            raise OSError("it cannot be read")
        return nullcontext(folder)

    def outputs(folder: Path, *_: object) -> Any:
        checked.append(int(folder.name))
        return SimpleNamespace(problem="other outputs" if checked[-1] == wrong else "")

    timed: list[set[int]] = []

    def after_export(models: Mapping[int, object]) -> Any:
        timed.append(set(models))
        ratio = {number: FRONT.speedup(one, FRONT.baseline) for number, one in by_number.items()}
        return SimpleNamespace(failed={}, groups=(), ratio=lambda baseline, number: ratio[number])

    monkeypatch.setattr(reloading, "read_exported", lambda folder: record)
    monkeypatch.setattr(reloading, "recorded_context", lambda record: None)
    monkeypatch.setattr(reloading, "open_exported", open_exported)
    monkeypatch.setattr(verify, "outputs", outputs)
    said: list[str] = []
    view = cast(Any, SimpleNamespace(progress=LINES.progress, say=said.append))
    times = SimpleNamespace(after_export=after_export, plan_after_export=PLAN)
    measurer = cast(Any, SimpleNamespace(context=Context(), times=times))

    problems = reloading.reload(measurer, FRONT, Path("exports"), view, left_s=1.0)
    assert problems == sorted([f"{wrong}: other outputs", f"{broken}: OSError: it cannot be read"], key=_number)
    assert sorted(checked) == sorted(set(by_number) - {broken}) and not timed
    assert said == ["      after export: the models were not timed, because the time limit leaves no time for it"]

    assert reloading.reload(measurer, FRONT, Path("exports"), view, left_s=math.inf) == []
    assert timed == [set(by_number)] and len(said) == 1

    timing_s = timing_seconds({"": PLAN}, [*([] if FRONT.baseline is None else [FRONT.baseline]), *FRONT.members])
    logging_s = logging_seconds(FRONT.members)
    reloading.reload(measurer, FRONT, Path("exports"), view, left_s=timing_s + logging_s / 2)
    assert len(timed) == 1, "MLflow has its time left"
    reloading.reload(measurer, FRONT, Path("exports"), view, left_s=timing_s + logging_s + 0.1)
    assert len(timed) == 2


def _number(problem: str) -> int:
    return int(problem.partition(":")[0])
