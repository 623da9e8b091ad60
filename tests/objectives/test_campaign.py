"""The final campaign on a machine whose noise is planted: every pair compares, and intervals cover."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import BATCH, FakeSide, Machine, Openings, others

from objectives import campaign, campaign_measurements, campaign_processes
from objectives.bench import TimedCall
from objectives.campaign import Campaign, CampaignPlan
from objectives.measurement import Measurement
from objectives.paired_timing import Opener

BRIEF = CampaignPlan(block_s=0.02, warm_s=0.05)
EAGER, BEST = 0, 1


def timed(
    machine: Machine, openers: Mapping[int, Opener], plan: CampaignPlan = BRIEF, seed: int = 0, read: Any = None
) -> Campaign:
    result = campaign.run([openers], (EAGER, BEST), [BATCH], plan, seed, read or machine.read)
    assert not result.failed
    return result


def figures(result: Campaign, key: int, seed: int = 0) -> dict[str, Measurement]:
    return campaign_measurements.measurements(result, key, 2, seed, {"device": "cpu"})


def test_all_models_are_open_at_once_in_fresh_processes_and_each_round_has_a_block_of_each() -> None:
    machine = Machine()
    openings = Openings(machine)
    result = timed(machine, openings.all(10, 8, 5, 4))
    assert openings.most == 4 and openings.open == []
    assert sorted(openings.made) == sorted([0, 1, 2, 3] * BRIEF.sets)
    [sets] = result.groups
    assert [len(one.blocks[key]) for one in sets for key in range(4)] == [BRIEF.rounds] * 4 * BRIEF.sets
    # That nobody else is awake during a call is asserted by the sides themselves.
    assert openings.sides[2].calls.count("block") == BRIEF.rounds


def test_the_order_in_a_round_is_drawn_by_lot_and_the_seed_says_it() -> None:
    def order(seed: int) -> list[int]:
        machine, keys = Machine(), []

        class Watched(FakeSide):
            def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
                if method == "block":
                    keys.append(round(self.bench.info()["prepare_s"]))
                return super().call(method, *arguments, timeout_s=timeout_s)

        openings = Openings(machine)
        openers = {key: openings.opener(key, 5, Watched, load_s=key + 1) for key in range(3)}
        campaign.run([openers], (0, 1), [BATCH], BRIEF, seed, machine.read)
        return keys

    rounds = [tuple(order(0)[start : start + 3]) for start in range(0, 3 * BRIEF.rounds * BRIEF.sets, 3)]
    assert all(len(set(one)) == 3 for one in rounds), "one block of each"
    assert len(set(rounds)) > 3, "of six orders"
    assert order(0) == order(0) != order(1)


def test_on_a_machine_without_noise_clock_times_and_ratios_are_exact() -> None:
    machine = Machine()
    result = timed(machine, Openings(machine).all(10, 8, 5), replace(BRIEF, block_s=0.4))
    values = {name: m.value for name, m in figures(result, 2).items()}
    assert values == pytest.approx(
        {
            "latency_p50_ms": 5,
            "latency_p90_ms": 5,
            "latency_p99_ms": 5,
            "throughput_per_s": 2 / 0.005,
            "speedup": 2,
            "first_call_ms": 95,
            "compile_ms": 90,
        }
    )
    ratio = result.ratio(1, 2)
    assert (ratio.value, *ratio.interval) == pytest.approx((8 / 5,) * 3)
    assert result.ratio(2, 1).value == pytest.approx(5 / 8)
    assert result.ratio(2, 2) == (1.0, 1.0, 1.0)
    assert figures(result, EAGER)["speedup"].interval == (1.0, 1.0)
    assert figures(result, 2)["latency_p50_ms"].conditions["sets"] == BRIEF.sets


@pytest.mark.parametrize("drift", [0.3, -0.3])
def test_a_machine_that_changes_its_speed_does_not_change_a_ratio(drift: float) -> None:
    machine = Machine(noise=0.02, drift=drift)
    result = timed(machine, Openings(machine).all(10, 8, 5, 5.5))
    assert result.ratio(3, 2).value == pytest.approx(1.1, rel=0.02)
    assert figures(result, 2)["speedup"].value == pytest.approx(2, rel=0.02)


def test_the_interval_of_every_ratio_covers_what_fresh_processes_differ_by() -> None:
    """Two candidates of one speed, whose processes differ by 2 %: neither of them is told from the other."""
    held = 0
    for seed in range(200):
        machine = Machine(seed, noise=0.05)
        openings = Openings(machine, process_sd=0.02, seed=seed)
        low, high = timed(machine, openings.all(10, 8, 5, 5), seed=seed).ratio(2, 3).interval
        held += low <= 1 <= high
    # 200 repetitions of 0.95 stay above this 99.9 % of the time.
    assert held >= 180


def test_a_difference_larger_than_that_of_processes_is_found() -> None:
    machine = Machine(noise=0.02)
    result = timed(machine, Openings(machine, process_sd=0.005).all(10, 8, 5, 6))
    low, high = result.ratio(3, 2).interval
    assert 1 < low < 1.2 < high


def test_one_set_alone_has_an_interval_over_its_rounds() -> None:
    machine = Machine(noise=0.05)
    result = timed(machine, Openings(machine).all(10, 10), replace(BRIEF, sets=1))
    low, high = result.ratio(0, 1).interval
    assert low < 1 < high


@pytest.mark.parametrize(
    ("needs", "available", "groups"),
    [
        ({0: 1, 1: 1, 2: 3, 3: 2, 4: 1}, 100, [[0, 1, 2, 3, 4]]),
        ({0: 1, 1: 1, 2: 3, 3: 2, 4: 1}, 5, [[0, 1, 2], [0, 1, 3, 4]]),
        ({0: 1, 1: 1, 2: 30, 3: 2, 4: 1}, 5, [[0, 1, 2], [0, 1, 3, 4]]),
        ({0: 1, 1: 1}, 1, [[0, 1]]),
    ],
)
def test_where_memory_is_short_models_take_turns_in_groups_with_both_baselines(
    needs: dict[int, float], available: float, groups: list[list[int]]
) -> None:
    assert campaign_processes.groups_of(needs, (0, 1), available) == groups


def test_models_of_two_groups_compare_by_way_of_the_baselines() -> None:
    """The second group runs while the machine is half as fast: what is reported is at one speed all the same."""
    machine = Machine()
    openings = Openings(machine)
    first = {key: openings.opener(key, ms) for key, ms in ((0, 10), (1, 8), (2, 5))}
    second = {key: openings.opener(key, ms) for key, ms in ((0, 20), (1, 16), (3, 8))}
    result = campaign.run([first, second], (0, 1), [BATCH], BRIEF, 0, machine.read)
    assert sorted(result.keys) == [0, 1, 2, 3]
    assert result.ratio(2, 3).value == pytest.approx(5 / 4)
    times = {key: figures(result, key)["latency_p50_ms"].value for key in (2, 3)}
    assert times[2] / times[3] == pytest.approx(5 / 4)
    assert figures(result, 3)["latency_p50_ms"].conditions["as_timed"] == pytest.approx(8)


@pytest.mark.parametrize(
    ("shares", "share", "noisy", "retried"),
    [([0.0], 0.0, "", 0), ([0.3, 0.0], 0.0, "", 1), ([0.1, 0.3, 0.0], 0.1, "other processes used 10% of the CPUs", 1)],
)
def test_a_disturbed_set_is_repeated_once_and_the_quieter_attempt_is_kept(
    shares: list[float], share: float, noisy: str, retried: int
) -> None:
    machine = Machine()
    result = timed(machine, Openings(machine).all(10, 8, 5), read=others(machine, shares))
    conditions = figures(result, 2)["latency_p50_ms"].conditions
    assert conditions["others_cpu_share"] == pytest.approx(share, abs=1e-3)
    assert (conditions["noisy"], len(conditions["retried_for"])) == (noisy, retried)


class Failing(FakeSide):
    """Its process dies in the first block."""

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if method == "block":
            raise RuntimeError("its process died (killed by signal 9)")
        return super().call(method, *arguments, timeout_s=timeout_s)


def test_a_model_that_dies_is_left_out_and_the_others_are_timed() -> None:
    machine = Machine()
    openings = Openings(machine)
    openers = {**openings.all(10, 8, 5), 3: openings.opener(3, 4, Failing)}
    result = campaign.run([openers], (0, 1), [BATCH], BRIEF, 0, machine.read)
    assert result.keys and 3 not in result.keys and sorted(result.keys) == [0, 1, 2]
    assert result.failed == {3: "RuntimeError: its process died (killed by signal 9)"}
    assert openings.made.count(3) == 1, "it is not tried again"
    assert result.ratio(1, 2).value == pytest.approx(8 / 5)
    assert openings.open == []


def test_a_model_that_cannot_be_opened_is_left_out_and_what_was_opened_beside_it_is_closed() -> None:
    machine = Machine()
    openings = Openings(machine)

    @contextlib.contextmanager
    def broken() -> Iterator[FakeSide]:
        raise MemoryError("no memory")
        yield  # type: ignore[unreachable]

    result = campaign.run([{**openings.all(10, 8), 2: broken}], (0, 1), [BATCH], BRIEF, 0, machine.read, at_once=2)
    assert (sorted(result.keys), list(result.failed)) == ([0, 1], [2])
    assert openings.open == [] and machine.awake == set()


def test_without_the_uncompressed_model_there_is_no_campaign() -> None:
    machine = Machine()
    openings = Openings(machine)
    openers = {0: openings.opener(0, 10, Failing), 1: openings.opener(1, 8)}
    with pytest.raises(RuntimeError, match="the uncompressed model could not be timed"):
        campaign.run([openers], (0, 1), [BATCH], BRIEF, 0, machine.read)
    assert openings.open == []


def test_device_time_is_reported_on_cuda() -> None:
    machine = Machine()
    result = timed(machine, Openings(machine, device="cuda").all(10, 8, 5))
    assert figures(result, 2)["device_p50_ms"].value == pytest.approx(5)


def test_a_model_with_bimodal_times_is_marked_and_no_other() -> None:
    machine = Machine()
    openings = Openings(machine)

    class Alternating(FakeSide):
        def __init__(self, machine: Machine, pid: int, opened: Callable[[], TimedCall], device: str = "cpu") -> None:
            def both() -> TimedCall:
                predict, calls = opened(), iter(range(10**6))

                def called(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
                    machine.now += 0.002 if next(calls) % 3 == 0 else 0.0
                    return predict(batch)

                return called

            super().__init__(machine, pid, both, device)

    openers = {**openings.all(10, 8), 2: openings.opener(2, 5, Alternating)}
    result = timed(machine, openers)
    assert "bimodal times: 5 ms, and 7 ms" in figures(result, 2)["latency_p50_ms"].conditions["noisy"]
    assert figures(result, 1)["latency_p50_ms"].conditions["noisy"] == ""


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"rounds": 7}, "8 or more, got 7"),
        ({"sets": 2}, "1, or 3 or more for an interval over them, got 2"),
        ({"attempts": 0}, "1 or more, got 0"),
    ],
)
def test_a_plan_without_an_interval_is_refused(wrong: dict[str, int], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        replace(BRIEF, **wrong)  # type: ignore[arg-type]


def test_a_plan_gives_each_model_its_seconds_and_never_less_than_asked_for_in_a_set() -> None:
    plan = CampaignPlan.lasting(2.4, at_least_s=0.75)
    assert plan.sets * plan.rounds * plan.block_s == pytest.approx(2.4)
    brief = CampaignPlan.lasting(0.3, at_least_s=0.75)
    assert brief.rounds * brief.block_s == pytest.approx(0.75)
