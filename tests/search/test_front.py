"""The front: who is on it, why others are not, picks, ties, speedups."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from objectives.estimate import Estimate, difference, ratio
from search.errors import UserError
from search.front.front import PICKS, Front
from search.front.outcome import LATENCY, Outcome, Target

from . import factory


def test_members_are_fastest_first_and_more_accurate_as_they_get_slower() -> None:
    members = factory.front().members
    assert [o.value(LATENCY) for o in members] == sorted(o.value(LATENCY) for o in members)
    assert [o.value("accuracy") for o in members] == sorted(o.value("accuracy") for o in members)


def test_the_order_of_trials_does_not_change_the_members() -> None:
    front = factory.front()
    shuffled = list(front.outcomes)
    random.Random(1).shuffle(shuffled)
    assert Front(front.targets, tuple(shuffled)).members == front.members


def test_adding_leaves_the_old_front_as_it_was() -> None:
    front = factory.front()
    before = front.members
    assert front.add(factory.outcome(99, 0.99, 0.1)).members[0].number == 99
    assert front.members == before


@pytest.mark.parametrize("change", [{"status": "failed"}, {"status": "rejected"}, {"limits_broken": ("too slow",)}])
def test_what_is_not_complete_or_breaks_a_limit_is_never_a_member(change: dict[str, object]) -> None:
    winner = replace(factory.outcome(99, 0.99, 0.1), **change)
    front = factory.front().add(winner)
    assert winner not in front.members
    assert front.why_not(winner)


def test_every_trial_is_a_member_or_has_a_reason() -> None:
    front = factory.front()
    for outcome in front.outcomes:
        assert (front.why_not(outcome) == "") == (outcome in front.members)


def test_a_dominated_trial_names_a_member_that_dominates_it() -> None:
    front = Front(factory.TARGETS, (factory.outcome(0, 0.8, 5.0), factory.outcome(1, 0.79, 6.0)))
    assert front.why_not(front.outcomes[1]) == "dominated by 0 (80.0 %, 5.00 ms)"


def test_an_equal_trial_names_the_first_of_its_kind() -> None:
    front = Front(factory.TARGETS, (factory.outcome(0, 0.8, 5.0), factory.outcome(1, 0.8, 5.0)))
    assert front.why_not(front.outcomes[1]) == "same values as 0"


def test_picks_are_members_and_extreme_where_their_name_says_so() -> None:
    front = factory.front()
    assert tuple(front.picks) == PICKS
    assert front.picks["fastest"] == front.members[0]
    assert front.picks["most-accurate"] == front.members[-1]
    assert front.picks["balanced"] in front.members[1:-1]


def test_a_trial_can_be_chosen_by_its_number_even_off_the_front() -> None:
    front = factory.front()
    off = next(o for o in front.eligible if o not in front.members)
    assert front.choose(str(off.number)) == off


@pytest.mark.parametrize(
    ("name", "message"),
    [("balnced", 'did you mean "balanced"'), ("999", 'unknown complete trial "999"'), ("-1", "unknown choice")],
)
def test_an_unknown_pick_is_refused_with_the_valid_ones(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        factory.front().choose(name)


def test_an_empty_front_has_no_picks_and_says_so() -> None:
    front = Front(factory.TARGETS)
    assert front.picks == {}
    assert front.hypervolume == 0.0
    with pytest.raises(UserError, match="the front is empty"):
        front.choose("balanced")


def test_targets_without_a_latency_or_a_quality_still_have_picks() -> None:
    front = replace(factory.front(), targets=(Target("size_mb", "lower"), Target("params", "lower")))
    assert front.picks["fastest"] == min(front.members, key=lambda o: o.value("params"))


def test_limits_keep_exactly_the_members_inside_them() -> None:
    front = factory.front()
    limited = front.within(max_latency_ms=5.0, max_loss=6.0)
    numbers = [o.number for o in front.members if o.value(LATENCY) <= 5.0 and front.loss(o).value <= 6.0]  # type: ignore[union-attr]
    assert [o.number for o in limited.members] == numbers
    assert 0 < len(numbers) < len(front.members)
    assert limited.baseline is not None, "a limit does not remove what others are compared with"
    slow = next(o for o in limited.outcomes if o.number == 0)
    assert limited.why_not(slow) == "latency 15.2 ms is over the limit of 5 ms"


def test_the_baseline_is_eager_and_the_best_uncompressed_is_the_fastest_of_its_kind() -> None:
    front = factory.front()
    assert front.baseline is not None
    assert front.baseline.number == 0
    assert front.best_uncompressed is not None
    assert front.best_uncompressed.number == 1, "int8 is a compression, however fast"


def test_speedups_over_both_baselines_are_consistent() -> None:
    front = factory.front()
    for outcome in front.members:
        over_eager, over_best = (front.speedup(outcome, o) for o in (front.baseline, front.best_uncompressed))
        gain = front.speedup(front.outcomes[1], front.baseline)
        assert over_eager
        assert over_best
        assert gain
        assert over_eager.value == pytest.approx(over_best.value * gain.value)
        assert over_eager.value == pytest.approx(outcome.measurements["speedup"].value)
        assert over_eager.low <= over_eager.value <= over_eager.high
    assert front.speedup(front.outcomes[0], front.baseline) == (1.0, 1.0, 1.0)
    assert front.speedup(front.outcomes[1], front.best_uncompressed) == (1.0, 1.0, 1.0)
    assert front.loss(front.outcomes[0]) == (0.0, 0.0, 0.0)


def test_members_tie_only_when_no_objective_tells_them_apart() -> None:
    close = factory.outcome(0, 0.800, 5.00), factory.outcome(1, 0.801, 5.05)
    faster, better = factory.outcome(2, 0.7995, 3.0), factory.outcome(3, 0.90, 5.06)
    front = Front(factory.TARGETS, (*close, faster, better))
    assert front.ties() == ((0, 1),)


def test_the_paired_measurement_decides_a_tie() -> None:
    """Accuracies whose own intervals overlap, but whose losses on the same rows do not."""
    a, b = factory.outcome(0, 0.80, 5.0), factory.outcome(1, 0.81, 5.01)
    sharp = {
        o.number: {**o.measurements, "quality_loss": replace(o.measurements["quality_loss"], interval=(v, v))}
        for o in (a, b)
        for v in [o.value("quality_loss")]
    }
    front = Front(factory.TARGETS, (a, b))
    assert front.ties() == ((0, 1),)
    assert Front(factory.TARGETS, tuple(replace(o, measurements=sharp[o.number]) for o in (a, b))).ties() == ()


def test_an_interval_of_a_difference_covers_as_often_as_it_claims() -> None:
    draw = np.random.default_rng(0)
    sides = [(draw.normal(mean, scale, 4000), scale) for mean, scale in ((3.0, 0.5), (2.0, 0.9))]
    estimates = [[Estimate(v, v - 1.96 * s, v + 1.96 * s) for v in values] for values, s in sides]
    covered = np.mean([difference(a, b).includes(1.0) for a, b in zip(*estimates, strict=True)])
    assert covered == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors of 4,000 repetitions


def test_a_ratio_is_the_inverse_of_its_mirror() -> None:
    a, b = Estimate(2.0, 1.8, 2.3), Estimate(0.5, 0.4, 0.7)
    there, back = ratio(a, b), ratio(b, a)
    assert there.value == pytest.approx(4.0)
    assert there == pytest.approx((1 / back.value, 1 / back.high, 1 / back.low))


def test_the_hypervolume_grows_only_when_the_front_does() -> None:
    front = Front(factory.TARGETS)
    for outcome in factory.front().outcomes:
        grown = front.add(outcome)
        if front.baseline is not None:
            improved = any(o.number == outcome.number for o in grown.members)
            assert grown.hypervolume >= front.hypervolume
            assert improved or grown.hypervolume == front.hypervolume
        front = grown


def test_an_outcome_survives_json() -> None:
    for outcome in factory.front().outcomes:
        assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
