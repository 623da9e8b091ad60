"""Two studies side by side, from made-up ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search.errors import UserError
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome
from search.front.study_record import StudyRecord
from search.report.comparison import Comparison, comparison_lines

from . import factory

ONE = factory.front()


def read(front: Front, name: str = "movie-reviews", **config: Any) -> tuple[Front, StudyRecord]:
    study = factory.study(front)
    return front, replace(study, config={**study.config, "study": name, **config})


def faster_clock(outcome: Outcome) -> Outcome:
    """The outcome as it is timed while the machine takes half as long for everything."""
    times = {n: m for n, m in outcome.measurements.items() if n.startswith("latency")}
    halved = {
        n: replace(m, value=m.value / 2, interval=(m.interval[0] / 2, m.interval[1] / 2)) for n, m in times.items()
    }
    return replace(outcome, measurements={**outcome.measurements, **halved})


def better(mine: Outcome, other: Outcome) -> bool:
    """Whether `other` is as accurate and as fast, and more accurate or faster."""
    gains = other.value("accuracy") - mine.value("accuracy"), mine.value(LATENCY) - other.value(LATENCY)
    return min(gains) >= 0 and max(gains) > 0


def test_a_study_is_as_good_as_itself() -> None:
    same = Comparison.of(read(ONE), read(ONE, "again"))
    assert same.volumes[0] == same.volumes[1] == pytest.approx(ONE.hypervolume)
    assert same.beaten(0) == same.beaten(1) == []
    assert {outcome.number for _, outcome in same.together} == {outcome.number for outcome in ONE.members}


def test_members_are_dominated_by_those_that_are_nowhere_worse_and_somewhere_better() -> None:
    other = factory.front(seed=8)
    compared = Comparison.of(read(ONE), read(other, "other"))
    first, second = (front.members for front in compared.fronts)
    for which, mine, rivals in ((0, first, second), (1, second, first)):
        expected = [one.number for one in mine if any(better(one, rival) for rival in rivals)]
        assert [outcome.number for outcome in compared.beaten(which)] == expected != []
    everybody = (*first, *second)
    kept = {one.value(LATENCY) for one in everybody if not any(better(one, rival) for rival in everybody)}
    assert {outcome.value(LATENCY) for _, outcome in compared.together} == kept


def test_times_of_one_machine_are_compared_at_one_speed_of_it() -> None:
    """Beside the uncompressed model, which was faster too, nothing has changed."""
    quick = replace(ONE, outcomes=tuple(map(faster_clock, ONE.outcomes)))
    compared = Comparison.of(read(ONE), read(quick, "quick"))
    times = [[o.value(LATENCY) for o in front.members] for front in compared.fronts]
    assert times[0] == pytest.approx(times[1]) and compared.volumes[0] == pytest.approx(compared.volumes[1])
    hardware = {**factory.HARDWARE, "cpu": "Another CPU"}
    front, study = read(quick, "elsewhere")
    elsewhere = front, replace(study, hardware=hardware)
    assert len(Comparison.of(read(ONE), elsewhere).beaten(0)) == len(ONE.members)
    said = "\n".join(comparison_lines(read(ONE), elsewhere))
    assert "which do not compare: they are of two machines (cpu: AMD EPYC 7B13 in movie-reviews, Another CPU in" in said


def test_what_differs_is_listed_by_its_key() -> None:
    other = read(factory.front(seed=8), "other", seed=7, budget={**factory.CONFIG["budget"], "trials": 60})
    said = list(comparison_lines(read(ONE), other))
    assert "  seed: 0 in movie-reviews, 7 in other" in said
    assert "  budget.trials: 40 in movie-reviews, 60 in other" in said
    assert not [line for line in said if line.startswith("  study:") or "do not compare" in line]
    assert any(line.startswith("hypervolume up to accuracy 0, latency 15.2: ") for line in said)
    assert any(line.startswith("the front of both:") for line in said)


@pytest.mark.parametrize(
    ("key", "value"), [("task", "regression"), ("metric", "macro_f1"), ("objectives", ["metric", "size_mb"])]
)
def test_studies_of_other_aims_are_not_compared(key: str, value: Any) -> None:
    rule = f"STUDY: both must have the same {key}, got .* in movie-reviews and .* in other"
    with pytest.raises(UserError, match=rule):
        list(comparison_lines(read(ONE), read(ONE, "other", **{key: value})))


def test_a_study_without_a_front_is_dominated_in_all() -> None:
    empty = Front(ONE.targets, ONE.outcomes[:0])
    said = list(comparison_lines(read(ONE), read(empty, "empty")))
    assert any("do not compare: the uncompressed model was not measured" in line for line in said)
    assert any(line.startswith("0 of 0 members of empty") for line in said)
