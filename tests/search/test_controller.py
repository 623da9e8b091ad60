"""Decisions: pure, in time, without flapping; failures and pins."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from search.serve.controller import Controller, Health, UnavailableError
from search.serve.policy import Backlog, BacklogFit, Fixed, PolicyState, prices, serving_at, worths
from search.serve.variants import ServiceTimes, Variant

SLO_S = 0.05
VARIANTS = tuple(
    Variant(number, 1 - loss / 100, loss, ((1, ms / 1e3),), 32, 1.5)
    for number, ms, loss in ((7, 0.5, 8), (3, 1, 4), (9, 4, 0))
)


def backlog(count: int, waited_s: float = 0.0) -> Backlog:
    """`count` rows that came evenly over the last `waited_s`."""
    left = np.linspace(SLO_S - waited_s, SLO_S, count)
    return Backlog(32, tuple(left[:32].tolist()), float(left[-1]), ((32, count),), 32, SLO_S)


def serving(number: int) -> PolicyState:
    """The state in which this variant serves rows of 32 tokens."""
    price = next(p for p in prices(VARIANTS, (32,)) if serving_at(p, VARIANTS, 32).number == number)
    return PolicyState(number, price)


def number(count: int, serves: int = 9, waited_s: float = 0.0) -> int:
    choice, state = BacklogFit().choose(serving(serves), backlog(count, waited_s), VARIANTS, ServiceTimes(), 0.0)
    assert state.number == choice.variant.number
    return choice.variant.number


def test_a_variant_below_the_hull_hides_none_behind_it() -> None:
    """As a small model that gains nothing by more time, between a smaller one and a much better one."""
    front = tuple(
        Variant(number, 1 - loss / 100, loss, ((1, ms / 1e3),), 32, 1.5)
        for number, ms, loss in ((8, 0.5, 13.0), (9, 0.7, 12.9), (7, 0.9, 0.7), (5, 2.0, 0.0))
    )

    def chosen(variants: tuple[Variant, ...]) -> set[int]:
        queues = (backlog(count) for count in range(1, 200))
        return {BacklogFit().choose(PolicyState(), q, variants, ServiceTimes(), 0.0)[0].variant.number for q in queues}

    assert chosen(front) == {8, 7, 5}
    assert chosen(front[1:2]) == {9}  # the others are out
    assert BacklogFit().fastest(front).number == 8


def test_a_decision_is_pure() -> None:
    random = np.random.default_rng(0)
    times = ServiceTimes()
    times.observe(VARIANTS[1], 4, 32, 0.01)
    before = copy.deepcopy(times)
    for _ in range(100):
        queue = backlog(int(random.integers(1, 200)), float(random.uniform(0, SLO_S)))
        state = serving(int(random.choice([3, 7, 9])))
        first = BacklogFit().choose(state, queue, VARIANTS, times, 1.0)
        assert first == BacklogFit().choose(state, queue, VARIANTS, times, 1.0) and times == before


def test_a_longer_queue_never_gets_a_more_accurate_variant() -> None:
    levels = [VARIANTS.index(next(v for v in VARIANTS if v.number == number(count))) for count in range(1, 200)]
    assert levels[0] == len(VARIANTS) - 1 and levels[-1] == 0
    assert levels == sorted(levels, reverse=True)


def test_a_batch_is_done_before_its_most_urgent_request_is_late() -> None:
    random, times = np.random.default_rng(1), ServiceTimes()
    for _ in range(300):
        waited = float(random.uniform(0, SLO_S - 0.003))
        queue = backlog(int(random.integers(1, 200)), waited)
        choice, _ = BacklogFit().choose(serving(int(random.choice([3, 7, 9]))), queue, VARIANTS, times, 0.0)
        assert times.safe_s(choice.variant, choice.batch, 32) <= queue.urgent_s[choice.batch - 1]


def test_hysteresis_stops_flapping() -> None:
    """Between the depth at which a variant is left and that at which it comes back, each of the two stays."""
    both = [count for count in range(1, 200) if number(count, 9) == 9 and number(count, 3) == 3]
    assert len(both) > 3 and both == list(range(both[0], both[-1] + 1))
    controller = Controller(VARIANTS, BacklogFit())
    for i in range(100):  # a queue that wavers within the band
        controller.decide(backlog(both[0] if i % 2 else both[-1]), float(i))
    assert controller.switch_count == 0


def test_every_switch_is_an_event_with_its_reason() -> None:
    controller = Controller(VARIANTS, BacklogFit())
    for time, count in enumerate((1, 150, 1, 1, 1)):
        controller.decide(backlog(count), float(time))
    moves = [(s.time_s, s.source, s.target) for s in controller.switches]
    assert moves == [(0, None, 9), (1, 9, 7), (2, 7, 3), (3, 3, 9)] and controller.switch_count == 3
    assert [s.reason for s in controller.switches][:2] == [
        "start",
        "150 waiting, 50.0 ms left to the most urgent",
    ]
    controller.decide(backlog(1, SLO_S - 0.002), 9.0)
    assert controller.switches[-1].reason == "1 waiting, 2.0 ms left to the most urgent"


def test_a_failed_variant_is_out_and_comes_back_later_each_time() -> None:
    controller = Controller(VARIANTS, BacklogFit())
    best, now, waits = VARIANTS[-1], 0.0, []
    for _ in range(8):
        assert controller.decide(backlog(1), now).variant == best
        controller.failed(best, now, "worker died")
        assert best not in controller.available(now) and controller.decide(backlog(1), now).variant != best
        waits.append(controller.health[best.number].out_until_s - now)
        now += waits[-1]
        controller.state = serving(best.number)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    controller.served(best, 1, 32, 0.004)
    assert best.number not in controller.health


def test_a_variant_that_starts_again_stays_out_until_it_has() -> None:
    controller = Controller(VARIANTS, BacklogFit())
    controller.out(VARIANTS[0].number, 120.0, "its process starts again")
    controller.failed(VARIANTS[0], 1.0, "its process died")  # the call that it died in
    assert controller.health[VARIANTS[0].number].out_until_s == 120.0
    controller.back(VARIANTS[0].number)
    assert VARIANTS[0] in controller.available(2.0)


def test_a_late_success_leaves_a_variant_out_that_starts_again() -> None:
    controller, fast = Controller(VARIANTS, BacklogFit()), VARIANTS[0]
    controller.failed(fast, 0.0, "its process died")
    controller.out(fast.number, 120.0, "its process starts again", 3.0)
    controller.served(fast, 1, 32, 0.004)
    assert fast not in controller.available(2.0) and controller.health[fast.number].failures == 0
    controller.back(fast.number)
    assert fast in controller.available(2.0) and controller.health == {}


def test_a_process_that_ends_at_each_call_is_out_for_longer_each_time() -> None:
    """The first time it is back as soon as it has started again."""
    controller, fast = Controller(VARIANTS, BacklogFit()), VARIANTS[0]
    now, waits = 0.0, []
    for _ in range(5):
        controller.failed(fast, now, "its process died")
        controller.out(fast.number, now + 600.0, "its process starts again", now + 0.5)
        assert controller.health[fast.number].out_until_s == now + 600.0
        controller.back(fast.number)
        waits.append(max(controller.health[fast.number].out_until_s - now, 0.0))
        now += waits[-1]
        assert fast in controller.available(now)
    assert waits == [0, 2, 4, 8, 16]
    controller.served(fast, 1, 32, 0.004)
    assert controller.health == {}


def test_clients_are_told_when_a_process_is_likely_to_have_started() -> None:
    controller = Controller(VARIANTS[:1], BacklogFit())
    controller.out(VARIANTS[0].number, 600.0, "its process starts again", 3.0)
    with pytest.raises(UnavailableError) as refusal:
        controller.fastest(1.0)
    assert refusal.value.retry_after_s == pytest.approx(2.0) and controller.back_at(1.0) == 600.0


def test_clients_are_told_to_wait_for_a_process_that_failed_again() -> None:
    controller, fast = Controller(VARIANTS[:1], BacklogFit()), VARIANTS[0]
    for failures, seconds in ((1, 0.5), (2, 2.0), (3, 4.0)):
        controller.failed(fast, 0.0, "its process died")
        controller.out(fast.number, 600.0, "its process starts again", 0.5)
        assert controller.health[fast.number].failures == failures
        with pytest.raises(UnavailableError) as refusal:
            controller.fastest(0.0)
        assert refusal.value.retry_after_s == pytest.approx(seconds)


def test_with_every_variant_out_the_next_trial_is_told() -> None:
    controller = Controller(VARIANTS[:2], BacklogFit())
    controller.failed(VARIANTS[0], 0.0, "")
    controller.failed(VARIANTS[1], 0.5, "")
    with pytest.raises(UnavailableError) as refusal:
        controller.decide(backlog(1), 0.6)
    assert refusal.value.retry_after_s == pytest.approx(0.4) and controller.back_at(0.6) == 1.0
    assert Health().after_failure(5.0, "x").out_until_s == 6.0


def test_a_pin_holds_until_it_is_taken_off() -> None:
    controller = Controller(VARIANTS, BacklogFit())
    controller.pin(3)
    assert {controller.decide(backlog(count), 0.0).variant.number for count in (1, 100)} == {3}
    assert controller.switches[-1].reason == "pinned"
    controller.failed(VARIANTS[1], 0.0, "")  # another serves while it is out
    assert controller.decide(backlog(1), 0.0).variant.number == 7
    controller.pin(None)
    controller.decide(backlog(1), 0.0)
    assert controller.decide(backlog(1), 0.0).variant.number == 9
    with pytest.raises(KeyError):
        controller.pin(1)
    with pytest.raises(ValueError, match="one or more"):
        Controller((), Fixed(1))


def test_short_rows_keep_accurate_variants_longer() -> None:
    for price in prices(VARIANTS, (16, 32, 128)):
        levels = [VARIANTS.index(serving_at(price, VARIANTS, length)) for length in (16, 32, 128)]
        assert levels == sorted(levels, reverse=True)
        for length in (16, 32, 128):  # what serves is worth the price, and a further step is not
            at = VARIANTS.index(serving_at(price, VARIANTS, length))
            steps = worths(VARIANTS, length)
            assert all(worth >= price for worth in steps[:at]) and all(worth < price for worth in steps[at:])
    mixed = Backlog(16, (0.05,), 0.05, ((16, 1), (128, 18)), 32, SLO_S)
    _, state = BacklogFit().choose(PolicyState(), mixed, VARIANTS, ServiceTimes(), 0.0)
    assert VARIANTS.index(serving_at(state.price, VARIANTS, 16)) > VARIANTS.index(
        serving_at(state.price, VARIANTS, 128)
    )
