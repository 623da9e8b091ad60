"""The protocol on a machine whose noise is planted, and once through real processes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import BATCH, FakeSide, Machine
from held import open_doubler
from timed import measure, sides

from objectives import latency, objective_named
from objectives.bench import open_bench
from objectives.clock import Reading
from objectives.latency import QUICK, Protocol

BRIEF = Protocol(block_s=0.02, blocks=10, warm_s=0.05)


@pytest.mark.parametrize("drift", [0.0, 0.3, -0.3])
@pytest.mark.parametrize(("ms", "baseline_ms"), [(11, 10), (10, 11)])
def test_a_planted_difference_is_found_with_the_right_sign(ms: float, baseline_ms: float, drift: float) -> None:
    # Meanwhile the machine gets about twice as slow, or as fast: far more than what is to be found.
    speedup = measure(Machine(noise=0.02, drift=drift), ms, baseline_ms)["speedup"]
    low, high = speedup.interval
    assert speedup.value == pytest.approx(baseline_ms / ms, rel=0.03)
    assert low > 1 if baseline_ms > ms else high < 1


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_equal_sides_are_found_equal_about_as_often_as_promised(drift: float) -> None:
    intervals = [measure(Machine(seed, 0.05, drift), 5, 5, seed, BRIEF)["speedup"].interval for seed in range(100)]
    # 100 repetitions of 0.95 stay above this 99.9 % of the time.
    assert sum(low <= 1 <= high for low, high in intervals) >= 88


def test_the_order_of_the_blocks_does_not_matter() -> None:
    # Whoever comes second in a round is slower by several per cent.
    speedups = [measure(Machine(drift=0.5), 11, 10, seed)["speedup"].value for seed in range(10)]
    assert speedups == pytest.approx([10 / 11] * 10, rel=0.005)


def test_the_same_seed_on_the_same_machine_gives_the_same_numbers() -> None:
    assert measure(Machine(noise=0.1), 9, 10) == measure(Machine(noise=0.1), 9, 10)
    assert measure(Machine(noise=0.1), 9, 10) != measure(Machine(noise=0.1), 9, 10, seed=1)


def test_the_numbers_of_a_machine_without_noise_are_exact() -> None:
    machine = Machine()
    candidate = FakeSide(machine, 1, machine.model(5, first_ms=95, load_s=2))
    baseline = FakeSide(machine, 2, machine.model(10))
    protocol = replace(QUICK, block_s=0.5)
    figures = latency.measure(candidate, baseline, [BATCH], protocol, 0, {"device": "cpu"}, machine.read)
    values = {name: measurement.value for name, measurement in figures.items()}
    assert values == pytest.approx({
        "latency_p50_ms": 5,
        "latency_p90_ms": 5,
        "latency_p99_ms": 5,
        "throughput_per_s": 2 / 0.005,  # two rows a batch
        "speedup": 2,
        "first_call_ms": 100,
        "compile_ms": 95,
        "prepare_s": 2,
    })  # fmt: skip
    for measurement in figures.values():
        assert measurement.interval == pytest.approx((measurement.value, measurement.value))
        assert measurement.conditions["device"] == "cpu"
        assert measurement.conditions["noisy"] == ""
        assert measurement.conditions["processes"] == 1
    assert figures["speedup"].conditions["baseline_p50_ms"] == pytest.approx(10)
    assert figures["speedup"].samples == protocol.blocks


@pytest.mark.parametrize(("ms", "absent"), [(10, {"latency_p99_ms"}), (30, {"latency_p90_ms", "latency_p99_ms"})])
def test_a_percentile_is_reported_only_from_enough_calls(ms: float, absent: set[str]) -> None:
    figures = measure(Machine(), ms, ms)
    tail = {"latency_p90_ms", "latency_p99_ms"}
    assert tail - set(figures) == absent


def test_without_a_baseline_there_is_no_speedup() -> None:
    machine = Machine()
    alone = FakeSide(machine, 1, machine.model(5))
    figures = latency.measure(alone, None, [BATCH], QUICK, 0, {}, machine.read)
    assert "speedup" not in figures
    assert figures["latency_p50_ms"].value == pytest.approx(5)


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
    figures = latency.measure(candidate, None, [BATCH], QUICK, 0, {}, machine.read)
    assert figures["device_p50_ms"].value == pytest.approx(5)


def test_a_busy_machine_marks_the_measurement_noisy() -> None:
    machine = Machine()

    def read(pids: Sequence[int]) -> Reading:
        quiet = machine.read(pids)
        return replace(quiet, everybody=quiet.everybody + 0.6 * machine.now)

    figures = latency.measure(*sides(machine, 5, 10), [BATCH], QUICK, 0, {}, read)
    assert all("30% of the CPUs" in measurement.conditions["noisy"] for measurement in figures.values())


def test_times_that_scatter_mark_the_measurement_noisy() -> None:
    assert "ratio is known to" in measure(Machine(noise=1.0), 10, 10)["latency_p50_ms"].conditions["noisy"]
    machine = Machine(noise=1.0)
    alone = latency.measure(FakeSide(machine, 1, machine.model(10)), None, [BATCH], QUICK, 0, {}, machine.read)
    assert "median is known to" in alone["latency_p50_ms"].conditions["noisy"]


@pytest.mark.parametrize("protocol", [QUICK, BRIEF])
def test_a_protocol_can_be_cut_to_a_time_and_keeps_its_blocks(protocol: Protocol) -> None:
    cut = protocol.lasting(1.0)
    assert cut.blocks == protocol.blocks
    assert 2 * cut.blocks * cut.block_s == pytest.approx(1.0)
    assert cut.warm_s == pytest.approx(min(protocol.warm_s, 0.25))


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"blocks": 7}, "8 or more for an interval, got 7"),
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
        figures = latency.measure(candidate, baseline, [BATCH], BRIEF, 0, {})
        assert candidate.call("info")["pid"] == candidate.pid != baseline.pid
    np.testing.assert_array_equal(outputs["logits"], 2 * BATCH["input_ids"])
    assert set(figures) >= {"latency_p50_ms", "throughput_per_s", "speedup", "first_call_ms", "prepare_s"}
    assert figures.pop("compile_ms").value >= 0
    assert all(measurement.value > 0 for measurement in figures.values())
