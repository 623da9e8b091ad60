"""The final campaign decides the front again, by clock times of the finalists."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from objectives.estimate import Estimate
from search.deliver.finalists import finalists_of
from search.front.final import Final
from search.front.front import Front
from search.front.outcome import LATENCY

from . import factory


def decided(front: Front, **changes: object) -> Front:
    return front.decided(replace(factory.campaign(front), **changes), lambda outcome: ())  # type: ignore[arg-type]


def test_after_the_campaign_its_clock_times_are_the_numbers_and_the_loops_stay_beside_them() -> None:
    front = factory.front()
    after = decided(front)
    for outcome, before in zip(after.outcomes, front.outcomes, strict=True):
        if outcome.number in after.final.measurements:
            assert outcome.value(LATENCY) == pytest.approx(0.8 * before.value(LATENCY))
            assert outcome.quick[LATENCY] == before.measurements[LATENCY]
            assert outcome.value("accuracy") == before.value("accuracy")
        elif outcome.status == "complete":
            assert outcome.value(LATENCY) == pytest.approx(0.8 * before.value(LATENCY)), "at the baseline's clock time"
            assert outcome.value(LATENCY) * outcome.value("speedup") == pytest.approx(after.outcomes[0].value(LATENCY))
            assert outcome.quick == {}


def test_who_is_dominated_by_the_campaigns_figures_leaves_the_front_and_the_reason_has_them() -> None:
    front = factory.front()
    slow, better = front.members[1], front.members[2]
    factor = 1.01 * better.value(LATENCY) / slow.value(LATENCY)
    after = front.decided(factory.campaign(front, {slow.number: factor}), lambda outcome: ())
    assert {o.number for o in front.members} - {o.number for o in after.members} == {slow.number}
    again = next(o for o in after.outcomes if o.number == better.number)
    figures = f"({100 * again.value('accuracy'):.1f} %, {again.value(LATENCY):.2f} ms)"
    left = next(o for o in after.outcomes if o.number == slow.number)
    assert after.why_not(left) == f"dominated by {better.number} {figures}"


def test_no_member_is_dominated_by_another_by_the_figures_that_are_shown() -> None:
    rng = random.Random(5)
    for seed in range(20):
        front = factory.front(seed=seed)
        after = front.decided(
            factory.campaign(front, {o.number: rng.uniform(0.7, 1.4) for o in front.members}), lambda outcome: ()
        )
        points = [(o.value(LATENCY), -o.value("accuracy")) for o in after.members]
        assert all(not (a[0] <= b[0] and a[1] <= b[1] and a != b) for a in points for b in points)
        assert all((after.why_not(o) == "") == (o in after.members) for o in after.outcomes)


def test_what_was_not_timed_again_is_never_a_member_and_says_so_without_old_figures() -> None:
    """A member turns out slow, and one that it dominated in the loop is no member for that: it was not timed."""
    outcomes = (*factory.baselines(), factory.outcome(3, 0.80, 4.0), factory.outcome(4, 0.79, 4.1))
    front = Front(factory.TARGETS, outcomes)
    after = front.decided(factory.campaign(front, {3: 1.2}), lambda outcome: ())
    left = after.outcomes[4]
    assert left not in after.members
    assert after.why_not(left) == "not timed again: 3 dominated it in the search's own timing"


def test_members_that_came_too_late_stay_and_are_marked() -> None:
    front = factory.front()
    late = front.members[0]
    final = factory.campaign(front)
    timed = {n: m for n, m in final.measurements.items() if n != late.number}
    final = replace(final, measurements=timed, late={late.number: "late"})
    after = front.decided(final, lambda outcome: ())
    [member] = [o for o in after.members if o.number == late.number]
    assert after.standing(member) == "on the front by its quick timing"
    assert member.value(LATENCY) == pytest.approx(0.8 * late.value(LATENCY)), "counted at the campaign's speed"


def test_limits_on_latency_are_decided_on_the_campaigns_figures() -> None:
    front = factory.front()
    slow = front.members[-1]
    assert slow.value(LATENCY) > 5
    front = front.within(max_latency_ms=slow.value(LATENCY) * 0.9)
    assert slow.number not in {o.number for o in front.members}
    final = factory.campaign(Front(front.targets, factory.front().outcomes))
    limit = slow.value(LATENCY) * 0.9
    after = front.decided(final, lambda o: ("too slow",) if o.value(LATENCY) > limit else ())
    assert slow.number in {o.number for o in after.members}, "0.8 of its quick timing by the clock"


def test_ties_and_speedups_are_what_the_pair_itself_showed() -> None:
    close = factory.outcome(3, 0.80, 5.0), factory.outcome(4, 0.801, 5.01)
    front = Front(factory.TARGETS, (*factory.baselines(), *close))
    final = factory.campaign(front)
    assert (3, 4) in front.decided(final, lambda o: ()).ties()
    ratios = {**final.ratios[""], (3, 4): Estimate(0.99, 0.985, 0.995)}
    after = front.decided(replace(final, ratios={"": ratios}), lambda o: ())
    assert (3, 4) not in after.ties(), "the paired difference excludes none, whatever their own intervals say"
    assert after.speedup(after.outcomes[3], after.outcomes[4]) == pytest.approx((1 / 0.99, 1 / 0.995, 1 / 0.985))
    over_best = after.speedup(after.outcomes[3], after.best_uncompressed)
    assert after.best_uncompressed is not None and over_best is not None
    assert over_best.value == pytest.approx(after.best_uncompressed.value(LATENCY) / after.outcomes[3].value(LATENCY))


def test_without_a_campaign_the_front_is_that_of_the_search() -> None:
    front = factory.front()
    assert front.decided(Final(), lambda outcome: ("never asked",)) is front


def test_what_a_campaign_found_survives_json() -> None:
    final = replace(factory.campaign(factory.front()), late={7: "the time limit passed"})
    assert Final.from_json(json.loads(json.dumps(final.to_json()))) == final


def test_finalists_are_the_baselines_the_members_and_a_few_that_are_close_to_them() -> None:
    outcomes = (
        *factory.baselines(),
        factory.outcome(3, 0.80, 4.0),
        factory.outcome(4, 0.799, 4.04),  # 1 % slower, known to 2 %
        factory.outcome(5, 0.799, 4.2),
        factory.outcome(6, 0.798, 4.05),
        factory.outcome(7, 0.797, 4.06),
    )
    front = Front(factory.TARGETS, outcomes)
    wanted = [o.number for o in finalists_of(front)]
    assert wanted[:2] == [0, 1], "the baselines first"
    assert set(wanted) == {0, 1, *(o.number for o in front.members), 4, 6}
