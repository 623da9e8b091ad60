"""The protocol on a machine whose noise is planted, and once through real processes."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import BATCH, FakeSide, Machine
from held import open_doubler

from objectives import latency, objective_named, timing
from objectives.bench import Predict, open_bench
from objectives.clock import Reading
from objectives.estimate import Estimate
from objectives.latency import LONG, QUICK, Protocol
from objectives.measurement import Measurement
from objectives.reference_speed import at_speed_of, reference_error

Measurements = dict[str, Measurement]

BRIEF = Protocol(block_s=0.02, blocks=10, warm_s=0.05)


@pytest.fixture(autouse=True)
def _thaw() -> Iterator[None]:
    yield
    gc.unfreeze()


def sides(machine: Machine, ms: float, baseline_ms: float) -> tuple[FakeSide, FakeSide]:
    return FakeSide(machine, 1, machine.model(ms)), FakeSide(machine, 2, machine.model(baseline_ms))


def measure(machine: Machine, ms: float, baseline_ms: float, seed: int = 0, protocol: Protocol = QUICK) -> Measurements:
    return latency.measure(*sides(machine, ms, baseline_ms), [BATCH], protocol, seed, {}, machine.read)


@pytest.mark.parametrize("drift", [0.0, 0.3, -0.3])
@pytest.mark.parametrize(("ms", "baseline_ms"), [(11, 10), (10, 11)])
def test_a_planted_difference_is_found_with_the_right_sign(ms: float, baseline_ms: float, drift: float) -> None:
    # Meanwhile the machine gets about twice as slow, or as fast: far more than what is to be found.
    found = measure(Machine(noise=0.02, drift=drift), ms, baseline_ms)["speedup"]
    low, high = found.interval
    assert found.value == pytest.approx(baseline_ms / ms, rel=0.03)
    assert low > 1 if baseline_ms > ms else high < 1


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_equal_sides_are_found_equal_about_as_often_as_promised(drift: float) -> None:
    intervals = [measure(Machine(seed, 0.05, drift), 5, 5, seed, BRIEF)["speedup"].interval for seed in range(100)]
    # 100 repetitions of 0.95 stay above this 99.9 % of the time.
    assert sum(low <= 1 <= high for low, high in intervals) >= 88


def test_the_order_of_the_blocks_does_not_matter() -> None:
    # Whoever comes second in a round is slower by several per cent.
    found = [measure(Machine(drift=0.5), 11, 10, seed)["speedup"].value for seed in range(10)]
    assert found == pytest.approx([10 / 11] * 10, rel=0.005)


def test_the_same_seed_on_the_same_machine_gives_the_same_numbers() -> None:
    assert measure(Machine(noise=0.1), 9, 10) == measure(Machine(noise=0.1), 9, 10)
    assert measure(Machine(noise=0.1), 9, 10) != measure(Machine(noise=0.1), 9, 10, seed=1)


def test_the_numbers_of_a_machine_without_noise_are_exact() -> None:
    machine = Machine()
    candidate = FakeSide(machine, 1, machine.model(5, first_ms=95, load_s=2))
    baseline = FakeSide(machine, 2, machine.model(10))
    protocol = replace(QUICK, block_s=0.5)
    found = latency.measure(candidate, baseline, [BATCH], protocol, 0, {"device": "cpu"}, machine.read)
    values = {name: measurement.value for name, measurement in found.items()}
    assert values == pytest.approx({
        "latency_p50_ms": 5,
        "latency_p90_ms": 5,
        "latency_p99_ms": 5,
        "throughput_per_s": 2 / 0.005,  # two rows a batch
        "speedup": 2,
        "first_call_ms": 100,
        "prepare_s": 2,
    })  # fmt: skip
    for measurement in found.values():
        assert measurement.interval == pytest.approx((measurement.value, measurement.value))
        assert measurement.conditions["device"] == "cpu"
        assert measurement.conditions["noisy"] == ""
    assert found["speedup"].conditions["baseline_p50_ms"] == pytest.approx(10)
    assert found["speedup"].samples == protocol.blocks


@pytest.mark.parametrize(("ms", "absent"), [(10, {"latency_p99_ms"}), (30, {"latency_p90_ms", "latency_p99_ms"})])
def test_a_percentile_is_reported_only_from_enough_calls(ms: float, absent: set[str]) -> None:
    found = measure(Machine(), ms, ms)
    tail = {"latency_p90_ms", "latency_p99_ms"}
    assert tail - set(found) == absent


def test_without_a_baseline_there_is_no_speedup() -> None:
    machine = Machine()
    alone = FakeSide(machine, 1, machine.model(5))
    found = latency.measure(alone, None, [BATCH], QUICK, 0, {}, machine.read)
    assert "speedup" not in found
    assert found["latency_p50_ms"].value == pytest.approx(5)


def test_every_round_has_one_block_of_each_side_and_all_are_awake_at_the_end() -> None:
    # That nobody else is awake during a call is asserted by the sides themselves.
    machine = Machine()
    both = sides(machine, 5, 10)
    latency.measure(*both, [BATCH], QUICK, 0, {}, machine.read)
    assert [side.calls.count("block") for side in both] == [QUICK.blocks, QUICK.blocks]
    assert machine.awake == {1, 2}


def test_all_are_awake_again_after_a_failure() -> None:
    class Failing(FakeSide):
        def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
            if method == "block":
                raise ArithmeticError
            return super().call(method, *arguments, timeout_s=timeout_s)

    machine = Machine()
    candidate, baseline = FakeSide(machine, 1, machine.model(5)), Failing(machine, 2, machine.model(5))
    with pytest.raises(ArithmeticError):
        latency.measure(candidate, baseline, [BATCH], QUICK, 0, {}, machine.read)
    assert machine.awake == {1, 2}


def test_device_time_is_reported_on_cuda() -> None:
    machine = Machine()
    candidate = FakeSide(machine, 1, machine.model(5), device="cuda")
    found = latency.measure(candidate, None, [BATCH], QUICK, 0, {}, machine.read)
    assert found["device_p50_ms"].value == pytest.approx(5)


def test_a_busy_machine_marks_the_measurement_noisy() -> None:
    machine = Machine()

    def read(pids: Sequence[int]) -> Reading:
        quiet = machine.read(pids)
        return replace(quiet, everybody=quiet.everybody + 0.6 * machine.now)

    found = latency.measure(*sides(machine, 5, 10), [BATCH], QUICK, 0, {}, read)
    assert all("30% of the CPUs" in measurement.conditions["noisy"] for measurement in found.values())


def test_times_that_scatter_mark_the_measurement_noisy() -> None:
    assert "ratio is known to" in measure(Machine(noise=1.0), 10, 10)["latency_p50_ms"].conditions["noisy"]
    machine = Machine(noise=1.0)
    alone = latency.measure(FakeSide(machine, 1, machine.model(10)), None, [BATCH], QUICK, 0, {}, machine.read)
    assert "median is known to" in alone["latency_p50_ms"].conditions["noisy"]


def exactly(ms: float) -> Estimate:
    return Estimate(ms, ms, ms)


COUNTED = ("latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "throughput_per_s")


def test_a_machine_of_another_speed_gives_the_same_times_beside_a_reference() -> None:
    fast, slow = (at_speed_of(exactly(10.0), measure(Machine(), 4 * slower, 9 * slower)) for slower in (1.0, 1.8))
    for name in COUNTED:
        if name in slow:
            assert slow[name].value == pytest.approx(fast[name].value)
    assert fast["latency_p50_ms"].value == pytest.approx(10 * 4 / 9)
    assert fast["throughput_per_s"].value == pytest.approx(2e3 / (10 * 4 / 9))  # two rows a batch
    assert slow["latency_p50_ms"].conditions["as_timed"] == pytest.approx(4 * 1.8)
    assert slow["latency_p50_ms"].conditions["reference_ms"] == 10.0


def test_the_interval_beside_a_reference_is_that_of_the_ratio() -> None:
    # A machine that wanders: the two sides wander together.
    timed = measure(Machine(noise=0.02, drift=0.3), 4, 10)
    found, ratio = at_speed_of(exactly(10.0), timed)["latency_p50_ms"], timed["speedup"]
    assert (found.value, *found.interval) == pytest.approx(
        (10 / ratio.value, 10 / ratio.interval[1], 10 / ratio.interval[0])
    )
    (low, high), (lowest, highest) = found.interval, timed["latency_p50_ms"].interval
    assert high / low - 1 < 0.2 * (highest / lowest - 1)


def test_the_error_of_the_reference_is_in_every_interval_that_is_counted_by_it() -> None:
    timed = measure(Machine(noise=0.02), 4, 10)
    exact, loose = (at_speed_of(r, timed) for r in (exactly(10.0), Estimate(10.0, 9.0, 12.0)))
    for name in ("latency_p50_ms", "latency_p90_ms", "throughput_per_s"):
        value, (low, high) = loose[name].value, loose[name].interval
        assert value == exact[name].value
        down, up = (0.9, 1.2) if "latency" in name else (1 / 1.2, 1 / 0.9)
        assert low <= value * down and high >= value * up
        own = exact[name].interval
        assert np.log(high / value) == pytest.approx(np.hypot(np.log(own[1] / value), np.log(up)))
    assert reference_error(loose["latency_p50_ms"]) == pytest.approx(np.log(12 / 9) / 3.92)
    assert reference_error(timed["latency_p50_ms"]) == 0.0


def test_a_second_reference_gives_what_it_would_have_given_alone() -> None:
    timed = measure(Machine(noise=0.05), 4, 10)
    loose, other = Estimate(20.0, 15.0, 30.0), Estimate(10.0, 9.5, 10.5)
    assert at_speed_of(other, at_speed_of(loose, timed)) == at_speed_of(other, timed)


def test_other_measurements_stay_and_a_second_reference_takes_the_place_of_the_first() -> None:
    timed = measure(Machine(noise=0.05), 4, 10)
    once = at_speed_of(exactly(20.0), timed)
    twice = at_speed_of(exactly(10.0), at_speed_of(exactly(40.0), timed))
    assert {name for name in timed if once[name] != timed[name]} == {name for name in COUNTED if name in timed}
    for name in COUNTED:
        if name in timed:
            assert twice[name].value == pytest.approx(once[name].value * (2 if "throughput" in name else 0.5))
            assert twice[name].conditions["as_timed"] == timed[name].value


def test_what_was_timed_alone_is_as_it_was_timed() -> None:
    machine = Machine()
    alone = latency.measure(FakeSide(machine, 1, machine.model(4)), None, [BATCH], QUICK, 0, {}, machine.read)
    assert at_speed_of(exactly(10.0), alone) == alone


def test_a_workload_that_is_marked_is_found_under_its_own_names_again() -> None:
    timed = measure(Machine(), 4, 10)
    marked = latency.renamed(timed, "b32")
    assert marked["latency_p50_ms/b32"].value == timed["latency_p50_ms"].value and "latency_p50_ms" not in marked
    own = {name: m for name, m in timed.items() if f"{name}/b32" in marked}
    assert latency.of_workload({**timed, **marked}, "b32") == latency.of_workload(timed, "") == own


@pytest.mark.parametrize("protocol", [QUICK, LONG])
def test_a_protocol_can_be_cut_to_a_time_and_keeps_its_blocks_and_processes(protocol: Protocol) -> None:
    cut = protocol.lasting(4.0)
    assert (cut.blocks, cut.processes) == (protocol.blocks, protocol.processes)
    assert 2 * cut.blocks * cut.processes * cut.block_s == pytest.approx(4.0)
    assert cut.warm_s == pytest.approx(min(protocol.warm_s, cut.blocks * cut.block_s / 2))


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"blocks": 7}, "8 or more for an interval, got 7"),
        ({"processes": 2}, "1, or 3 or more for an interval over them, got 2"),
        ({"attempts": 0}, "1 or more, got 0"),
    ],
)
def test_a_protocol_without_an_interval_is_refused(wrong: dict[str, int], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        replace(QUICK, **wrong)  # type: ignore[arg-type]


def test_batches_of_different_sizes_are_refused() -> None:
    machine = Machine()
    other = {"input_ids": np.ones((3, 4), dtype=np.int64)}
    with pytest.raises(ValueError, match="same number of rows, got"):
        latency.measure(*sides(machine, 5, 5), [BATCH, other], QUICK, 0, {}, machine.read)


class Openings:
    """Fresh sides on one machine, and how many of them are open."""

    def __init__(self, machine: Machine, *ms: float) -> None:
        self.opened, self.open = 0, 0
        self._machine, self._ms = machine, ms

    @contextlib.contextmanager
    def __call__(self) -> Iterator[FakeSide]:
        self.opened, self.open = self.opened + 1, self.open + 1
        side = FakeSide(
            self._machine, id(self) + self.opened, self._machine.model(self._ms[self.opened % len(self._ms)])
        )
        yield side
        self.open -= 1
        side.pause()


def test_the_long_protocol_opens_fresh_processes_of_both_sides_and_closes_them() -> None:
    machine = Machine()
    candidates, baselines = Openings(machine, 5), Openings(machine, 10)
    found = latency.measure_fresh(candidates, baselines, [BATCH], LONG.lasting(4), 0, {}, machine.read)
    assert (candidates.opened, baselines.opened) == (LONG.processes, LONG.processes)
    assert (candidates.open, baselines.open) == (0, 0)
    assert found["speedup"].value == pytest.approx(2)
    assert found["speedup"].interval == pytest.approx((2, 2))
    assert found["latency_p50_ms"].conditions["processes"] == LONG.processes


def test_what_fresh_processes_differ_by_is_in_the_intervals() -> None:
    # Of four processes two are 4 % slower, each of them without any noise in itself.
    machine = Machine()
    found = latency.measure_fresh(
        Openings(machine, 10, 10.4), Openings(machine, 10), [BATCH], LONG.lasting(4), 0, {}, machine.read
    )
    for name, truth in (("speedup", 1 / 1.02), ("latency_p50_ms", 10.2)):
        low, high = found[name].interval
        assert low < truth * 0.985
        assert high > truth * 1.015


@pytest.mark.parametrize(("function", "protocol"), [("measure", LONG), ("measure_fresh", QUICK)])
def test_a_protocol_of_the_other_tier_is_refused(function: str, protocol: Protocol) -> None:
    with pytest.raises(ValueError, match=r"protocol\.processes must be"):
        getattr(latency, function)(None, None, [BATCH], protocol, 0, {})


def others(machine: Machine, shares: Sequence[float]) -> timing.Read:
    """Readings of a machine on which other processes take these shares of both CPUs, attempt by attempt."""
    state = {"readings": 0, "taken": 0.0, "since": 0.0}

    def read(pids: Sequence[int]) -> Reading:
        attempt = int(state["readings"]) // 2
        if state["readings"] % 2:
            state["taken"] += 2 * shares[min(attempt, len(shares) - 1)] * (machine.now - state["since"])
        state["readings"] += 1
        state["since"] = machine.now
        quiet = machine.read(pids)
        return replace(quiet, everybody=quiet.everybody + state["taken"])

    return read


@pytest.mark.parametrize(
    ("shares", "kept", "noisy", "retried"),
    [
        ([0.0], 0.0, "", 0),
        ([0.3, 0.0], 0.0, "", 1),
        ([0.3, 0.1, 0.2], 0.1, "other processes used 10% of the CPUs", 2),
        ([0.1, 0.2, 0.3, 0.0], 0.1, "other processes used 10% of the CPUs", 2),
    ],
)
def test_a_disturbed_attempt_is_repeated_a_few_times_and_the_quietest_is_kept(
    shares: list[float], kept: float, noisy: str, retried: int
) -> None:
    machine, protocol = Machine(), replace(QUICK, attempts=3)
    found = latency.measure(*sides(machine, 5, 10), [BATCH], protocol, 0, {}, others(machine, shares))["speedup"]
    assert found.conditions["others_cpu_share"] == pytest.approx(kept, abs=1e-3)
    assert found.conditions["noisy"] == noisy
    assert len(found.conditions["retried_for"]) == retried
    assert all("other processes used" in reason for reason in found.conditions["retried_for"])


def test_a_model_with_bimodal_times_marks_the_measurement_noisy() -> None:
    machine = Machine()
    opened = machine.model(5)

    def alternating() -> Predict:
        predict, calls = opened(), itertools.count()

        def called(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            machine.now += 0.002 if next(calls) % 3 == 0 else 0.0
            return predict(batch)

        return called

    found = latency.measure(FakeSide(machine, 1, alternating), None, [BATCH], QUICK, 0, {}, machine.read)
    assert "bimodal times: 5 ms, and 7 ms" in found["latency_p50_ms"].conditions["noisy"]


def test_inputs_of_several_lengths_do_not_make_times_bimodal() -> None:
    machine = Machine()
    opened = machine.model(5)

    def by_length() -> Predict:
        predict = opened()

        def called(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            machine.now += 0.005 * (batch["input_ids"].shape[1] > 4)
            return predict(batch)

        return called

    inputs = [BATCH, {"input_ids": np.ones((2, 9), dtype=np.int64)}]
    found = latency.measure(FakeSide(machine, 1, by_length), None, inputs, QUICK, 0, {}, machine.read)
    assert "bimodal" not in found["latency_p50_ms"].conditions["noisy"]
    assert found["latency_p50_ms"].conditions["retried_for"] == []


def test_a_median_that_scatters_is_marked_but_not_timed_again() -> None:
    found = measure(Machine(noise=1.0), 10, 10)["latency_p50_ms"].conditions
    assert found["noisy"]
    assert found["retried_for"] == []


def test_another_workloads_measurements_carry_its_name() -> None:
    timed = latency.renamed(measure(Machine(), 5, 10), "b32")
    assert set(timed) == {f"{name}/b32" for name in ("latency_p50_ms", "latency_p90_ms", "throughput_per_s", "speedup")}
    assert all(measurement.objective == name for name, measurement in timed.items())
    assert objective_named("latency_p50_ms/b32").better == "lower"


@pytest.mark.parametrize("name", ["size_mb/b32", "latency_p50_ms/", "latency_p50_ms/x", "latency/b32"])
def test_a_workload_is_named_only_for_what_depends_on_it(name: str) -> None:
    with pytest.raises(ValueError, match="got"):
        objective_named(name)


def test_two_real_processes_are_measured() -> None:
    light, heavy = (functools.partial(open_doubler, megabytes) for megabytes in (1, 20))
    with open_bench(light) as candidate, open_bench(heavy) as baseline:
        [outputs] = candidate.call("predict", [BATCH])
        found = latency.measure(candidate, baseline, [BATCH], BRIEF, 0, {})
        assert candidate.call("info")["pid"] == candidate.pid != baseline.pid
    np.testing.assert_array_equal(outputs["logits"], 2 * BATCH["input_ids"])
    assert set(found) >= {"latency_p50_ms", "throughput_per_s", "speedup", "first_call_ms", "prepare_s"}
    assert all(measurement.value > 0 for measurement in found.values())
