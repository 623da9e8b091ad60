"""Times counted at the speed of a reference, with its error in their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import BATCH, FakeSide, Machine
from timed import measure

from objectives import latency
from objectives.estimate import Estimate
from objectives.latency import QUICK
from objectives.reference_speed import at_speed_of, reference_error


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
    median, ratio = at_speed_of(exactly(10.0), timed)["latency_p50_ms"], timed["speedup"]
    assert (median.value, *median.interval) == pytest.approx(
        (10 / ratio.value, 10 / ratio.interval[1], 10 / ratio.interval[0])
    )
    (low, high), (lowest, highest) = median.interval, timed["latency_p50_ms"].interval
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
