"""Speedups are of the time that a study optimises, and say which that is where it is not that of a whole call."""

from __future__ import annotations

import io
from dataclasses import replace

import jsonschema
import pytest
from rich.console import Console

from objectives.estimate import Estimate, ratio
from search.deliver.best_config import BestConfig, plain_json, schema
from search.front.final import Final
from search.front.front import Front
from search.front.outcome import LATENCY, SPEEDUP, Outcome, Target
from search.front.speedups import optimised_time
from search.report.page import front_html
from search.report.plot import tooltip
from search.report.progress import line_of
from search.report.text import front_json, headline, note, pick_lines, table

from . import factory

#: ms by trial, of whole calls and of what the study optimises. ONNX Runtime is faster in the first, int8 in the second.
CALLS = {0: 1000.0, 1: 500.0, 2: 800.0, 3: 400.0}
OPTIMISED = {0: 40.0, 1: 30.0, 2: 20.0, 3: 5.0}


def front(objective: str) -> Front:
    """Eager, two other runtimes of the uncompressed model, and one compressed candidate (trial 3)."""
    recipes = [factory.recipe(runtime=runtime) for runtime in ("eager", "onnx", "openvino")]
    recipes.append(factory.recipe({"distill": {"layers": 3}}, "onnx"))
    mark = objective.partition("/")[1:]
    outcomes = []
    for number, recipe in enumerate(recipes):
        figures = factory.measurements(0.8 + 0.001 * number, CALLS[number])
        figures[objective] = factory.measurement(objective, OPTIMISED[number], 0.02 * OPTIMISED[number], "ms")
        paired = {SPEEDUP: CALLS[0] / CALLS[number]}
        if mark[0]:
            paired["".join((SPEEDUP, *mark))] = OPTIMISED[0] / OPTIMISED[number]
        for name, value in paired.items():
            figures[name] = factory.measurement(name, value, 0.01 * value, "ratio", "higher")
        outcomes.append(factory.outcome(number, candidate=recipe, measurements=figures, baseline=number < 3))
    return Front((Target("accuracy", "higher"), Target(objective, "lower")), tuple(outcomes))


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


@pytest.mark.parametrize("objective", ["tpot_ms", "ttft_ms", "latency_p90_ms", f"{LATENCY}/b32", "tpot_ms/b8"])
def test_a_study_s_speedups_are_of_the_time_that_it_optimises(objective: str) -> None:
    searched = front(objective)
    candidate, best = searched.outcomes[3], searched.best_uncompressed
    assert searched.time == objective
    assert best is not None and best.number == 2, "the fastest by that time, not by whole calls"
    assert value(searched.speedup(candidate, searched.baseline)) == pytest.approx(8.0)
    assert value(searched.speedup(candidate, best)) == pytest.approx(4.0)
    assert value(searched.speedup(candidate, searched.baseline, LATENCY)) == pytest.approx(2.5)
    assert searched.speedup(best, best) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("objective", [LATENCY, "generate_ms", "throughput_per_s", SPEEDUP, "tokens_per_s", "size_mb"])
def test_what_is_counted_of_whole_calls_goes_by_them(objective: str) -> None:
    searched = front(objective)
    assert searched.time == LATENCY
    if objective not in (LATENCY, SPEEDUP):
        assert searched.best_uncompressed is not None and searched.best_uncompressed.number == 1
        assert value(searched.speedup(searched.outcomes[3], searched.baseline)) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("objectives", "time"),
    [
        (("f1", "throughput_per_s/b32", "size_mb"), f"{LATENCY}/b32"),
        (("f1", "generate_ms/b8"), f"{LATENCY}/b8"),
        (("perplexity", "size_mb", "tpot_p99_ms"), "tpot_p99_ms"),
        (("accuracy", "size_mb"), LATENCY),
        ((), LATENCY),
    ],
)
def test_the_time_is_that_behind_the_first_objective_that_has_one(objectives: tuple[str, ...], time: str) -> None:
    assert optimised_time(objectives) == time


def test_of_another_workload_the_campaign_s_own_ratio_counts() -> None:
    searched = front(f"{LATENCY}/b32")
    pairs = {"": {(0, 3): Estimate(2.0, 1.9, 2.1)}, "b32": {(0, 3): Estimate(9.0, 8.9, 9.1)}}
    timed = {number: {f"{LATENCY}/b32": searched.outcomes[number].measurements[f"{LATENCY}/b32"]} for number in (0, 3)}
    after = searched.decided(Final(timed, pairs), lambda outcome: ())
    assert after.speedup(after.outcomes[3], after.baseline) == (9.0, 8.9, 9.1)
    assert after.speedup(after.outcomes[3], after.baseline, LATENCY) == (2.0, 1.9, 2.1)


def test_the_reference_s_error_widens_no_ratio_of_two_times() -> None:
    """By the clock the times are known within 1 %; the 10 % of their reference are in both."""
    searched = front("tpot_ms")
    outcomes = []
    for one in searched.outcomes:
        timed, ms = one.measurements["tpot_ms"], OPTIMISED[one.number]
        conditions = {**timed.conditions, "as_timed": 2 * ms, "as_timed_interval": [1.98 * ms, 2.02 * ms]}
        scaled = replace(timed, interval=(0.9 * ms, 1.1 * ms), conditions=conditions)
        outcomes.append(replace(one, measurements={**one.measurements, "tpot_ms": scaled}))
    searched = Front(searched.targets, tuple(outcomes))
    expected = ratio(Estimate(40.0, 39.6, 40.4), Estimate(5.0, 4.95, 5.05))
    assert searched.speedup(searched.outcomes[3], searched.baseline) == pytest.approx(tuple(expected))


def test_a_time_that_was_not_measured_has_no_speedup() -> None:
    searched = front("latency_p90_ms")
    figures = {name: m for name, m in searched.outcomes[0].measurements.items() if name != "latency_p90_ms"}
    searched = searched.replacing({0: replace(searched.outcomes[0], measurements=figures)})
    assert searched.speedup(searched.outcomes[3], searched.baseline) is None


def texts(searched: Front) -> dict[str, str]:
    """Every text that has a speedup, by what it is."""
    study, out = factory.study(searched), io.StringIO()
    Console(file=out, width=400).print(table(searched, study))
    return {
        "the table": out.getvalue(),
        "the last lines": "\n".join(pick_lines(searched)),
        "the headline": headline(searched),
        "the note of MLflow": note(searched, study),
        "the page": front_html(searched, study),
        "a point of the picture": tooltip(searched, searched.outcomes[3]),
    }


@pytest.mark.parametrize(
    ("objective", "words"), [("tpot_ms", "in time per token"), (f"{LATENCY}/b32", "in latency at b32")]
)
def test_every_text_says_which_time_a_speedup_is_of(objective: str, words: str) -> None:
    searched = front(objective)
    said = texts(searched)
    assert {what for what, text in said.items() if words not in text} == set()
    assert "8.00x as fast as the uncompressed model" in said["the headline"]
    assert f"8.00x over eager fp32 {words}, 4.00x over the best uncompressed {words}" in said["the last lines"]
    assert f"x best {words}" in said["the table"] and f"x best {words}" in said["the page"]
    assert f"Speedups are of the <b>{words.removeprefix('in ')}</b>" in said["the page"]
    assert "5.00 ms" in line_of(searched.outcomes[3], searched), "the time that is optimised, not that of a call"


def test_speedups_of_whole_calls_need_no_words() -> None:
    said = texts(front(LATENCY))
    assert {what for what, text in said.items() if " in latency" in text or "Speedups are of" in text} == set()


def test_the_files_name_the_time_under_the_fields_that_they_have() -> None:
    searched = front("tpot_ms")
    study = factory.study(searched)
    data = front_json(searched, study)
    jsonschema.validate(plain_json(data), schema("front"))
    assert data["best_uncompressed"] == 2
    [member] = [one for one in data["members"] if one["number"] == 3]
    assert member["speedup"]["of"] == "tpot_ms"
    assert member["speedup"]["over_eager_fp32"]["value"] == pytest.approx(8.0)
    assert member["speedup"]["over_best_uncompressed"]["value"] == pytest.approx(4.0)
    assert member["measurements"][SPEEDUP]["value"] == pytest.approx(2.5), "the measurement is of whole calls"
    candidate: Outcome = searched.outcomes[3]
    assert BestConfig.of(searched, study, candidate, {}).speedup == member["speedup"]
    assert front_json(front(LATENCY), study)["members"][0]["speedup"]["of"] == LATENCY
