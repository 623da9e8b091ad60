"""The front at its edges: figures at a limit or not measured, equal trials, targets and baselines in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from objectives.estimate import Estimate
from search.front.front import Front
from search.front.outcome import LATENCY, LOSS, SPEEDUP, Outcome, Target

from . import factory

SIZE = Target("size_mb", "lower")


def test_what_was_not_measured_against_the_baseline_has_no_speedup_and_no_loss() -> None:
    unpaired = factory.outcome(5, 0.8, 4.0)
    figures = {name: m for name, m in unpaired.measurements.items() if name not in (SPEEDUP, LOSS)}
    front = Front(factory.TARGETS, (*factory.baselines(), replace(unpaired, measurements=figures)))
    assert front.loss(front.outcomes[-1]) is None
    assert front.speedup(front.outcomes[-1], front.baseline) is None
    assert front.speedup(front.outcomes[-1], front.best_uncompressed) is None
    limited = front.within(max_loss=50.0)
    assert limited.why_not(limited.outcomes[-1]) == "loss unknown is over the limit of 50 accuracy points"


def test_without_a_baseline_nothing_is_known_to_be_as_fast_as_it() -> None:
    alone = replace(factory.baselines()[1], measurements=factory.baselines()[0].measurements)
    front = Front(factory.TARGETS, (alone,))
    assert front.baseline is None
    assert front.loss(alone) is None
    assert front.speedup(factory.outcome(5, 0.8, 4.0), alone) is None


def test_a_figure_exactly_at_a_limit_is_inside_it_and_one_over_it_is_said() -> None:
    front = Front(factory.TARGETS, (*factory.baselines(), factory.outcome(5, 0.8, 4.0)))
    loss = front.outcomes[-1].value(LOSS)
    assert front.within(max_latency_ms=4.0, max_loss=loss).outcomes[-1].limits_broken == ()
    [reason] = front.within(max_loss=loss / 2).outcomes[-1].limits_broken
    assert reason == "loss 3.20 accuracy points is over the limit of 1.6 accuracy points"


def test_the_baseline_is_the_eager_one_whichever_was_measured_first() -> None:
    first, other = factory.baselines()[:2]
    for order in ((first, other), (other, first)):
        front = Front(factory.TARGETS, order)
        assert front.baseline is first
        assert front.best_uncompressed is other
    assert Front(factory.TARGETS, (other,)).baseline is None


def test_what_failed_is_no_baseline() -> None:
    failed = replace(factory.baselines()[0], status="failed", measurements={})
    assert Front(factory.TARGETS, (failed,)).uncompressed == ()


@pytest.mark.parametrize(
    ("targets", "speed", "quality"),
    [
        ((SIZE, Target(LATENCY, "lower"), Target("f1", "higher")), LATENCY, "f1"),
        ((Target("perplexity", "lower"), Target("tpot_ms", "lower"), SIZE), "tpot_ms", "perplexity"),
        ((Target("ttft_ms", "lower"), Target("generate_ms", "lower"), SIZE), "generate_ms", "ttft_ms"),
        ((SIZE, Target("params", "lower"), Target("memory_mb", "lower")), "memory_mb", "size_mb"),
        ((Target(LATENCY, "lower"), Target("accuracy", "higher"), Target("f1", "higher"), SIZE), LATENCY, "accuracy"),
    ],
)
def test_fastest_and_most_accurate_have_a_target_each_in_any_order(
    targets: tuple[Target, ...], speed: str, quality: str
) -> None:
    front = Front(targets)
    assert (front.speed.objective, front.quality.objective) == (speed, quality)


def test_members_are_in_the_order_of_the_last_target_then_of_their_numbers() -> None:
    """Smaller is slower here, and equally accurate ones are told apart by their sizes alone."""
    figures = {number: factory.measurements(0.8, 10.0 - number, size=10.0 + number) for number in range(4)}
    outcomes = tuple(factory.outcome(number, measurements=figures[number]) for number in (2, 0, 3, 1))
    by_size = Front((Target("accuracy", "higher"), Target(LATENCY, "lower"), SIZE), outcomes)
    assert [o.number for o in by_size.members] == [0, 1, 2, 3]
    by_latency = Front((Target("accuracy", "higher"), SIZE, Target(LATENCY, "lower")), outcomes)
    assert [o.number for o in by_latency.members] == [3, 2, 1, 0]


def test_an_equal_of_a_member_that_was_not_timed_again_names_it() -> None:
    outcomes = (*factory.baselines(), factory.outcome(3, 0.8, 4.0), factory.outcome(4, 0.8, 4.0))
    front = Front(factory.TARGETS, outcomes)
    after = front.decided(factory.campaign(front, {3: 1.2}), lambda outcome: ())
    assert after.why_not(after.outcomes[4]) == "not timed again: 3 dominated it in the search's own timing"


def test_a_ratio_of_times_says_nothing_of_accuracies() -> None:
    """Two members that the campaign cannot tell apart in time, but whose losses on the same rows differ for sure."""
    sharp = []
    for outcome in (factory.outcome(3, 0.80, 5.0), factory.outcome(4, 0.81, 5.01)):
        lost = replace(outcome.measurements[LOSS], interval=(outcome.value(LOSS),) * 2)
        sharp.append(replace(outcome, measurements={**outcome.measurements, LOSS: lost}))
    front = Front(factory.TARGETS, (*factory.baselines(), *sharp))
    final = factory.campaign(front)
    alike = {**final.ratios[""], (3, 4): Estimate(1.0, 0.98, 1.02)}
    assert front.decided(replace(final, ratios={"": alike}), lambda outcome: ()).ties() == ()


def test_the_hypervolume_is_counted_from_the_baselines_cost_and_no_quality() -> None:
    targets = (*factory.TARGETS, SIZE)
    dear = factory.outcome(5, 0.9, 30.0, measurements=factory.measurements(0.9, 30.0, size=500.0))
    baseline = factory.baselines()[0]
    cost = baseline.value(LATENCY), baseline.value("size_mb")
    assert Front(targets, (baseline, dear)).reference == (0.0, *cost)
    assert Front(targets, (dear, factory.outcome(6, 0.8, 4.0))).reference == (0.0, 30.0, 500.0)
    assert Front(targets).reference == (0.0, 0.0, 0.0)


def test_noise_is_what_the_latencys_conditions_say() -> None:
    quiet = factory.outcome(5, 0.8, 4.0)
    assert quiet.noise == ""
    conditions = {**quiet.measurements[LATENCY].conditions, "noisy": "another process ran"}
    timed = replace(quiet.measurements[LATENCY], conditions=conditions)
    assert replace(quiet, measurements={LATENCY: timed}).noise == "another process ran"
    assert Outcome(6, factory.recipe(), "failed").noise == ""


def test_noise_under_another_workload_is_said_too_and_each_reason_once() -> None:
    quiet = factory.outcome(5, 0.8, 4.0)
    plain = quiet.measurements[LATENCY]
    busy, hot = (replace(plain, conditions={"noisy": reason}) for reason in ("another process ran", "it was hot"))
    figures = {LATENCY: plain, f"{LATENCY}/b32": busy, f"{LATENCY}/b8": busy, f"{LATENCY}/b4": hot}
    assert replace(quiet, measurements=figures).noise == "another process ran; it was hot"
