"""Energy: from counters that are there, absent without."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import BATCH, FakeSide, Machine

from objectives import energy


def zone(folder: Path, name: str, microjoules: int, most: int = 10**9) -> Path:
    place = folder / name
    place.mkdir()
    (place / "energy_uj").write_text(str(microjoules))
    (place / "max_energy_range_uj").write_text(str(most))
    return place


def test_packages_are_summed_and_their_parts_are_not_counted_twice(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 1_000_000), zone(tmp_path, "intel-rapl:1", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", 777)  # the cores of package 0
    counted = energy.counter("cpu", tmp_path)
    assert counted is not None
    (first / "energy_uj").write_text("1500000")
    (second / "energy_uj").write_text("5250000")
    assert counted[1]() == pytest.approx(750)


def test_a_counter_that_runs_over_goes_on(tmp_path: Path) -> None:
    path = zone(tmp_path, "intel-rapl:0", 999_000, most=1_000_000)
    counted = energy.counter("cpu", tmp_path)
    assert counted is not None
    (path / "energy_uj").write_text("4000")
    assert counted[1]() == pytest.approx(5)


def test_where_nothing_counts_there_is_no_measurement(tmp_path: Path) -> None:
    assert energy.counter("cpu", tmp_path) is None
    machine = Machine()
    assert energy.energy(FakeSide(machine, 1, machine.model(5)), [BATCH], {}, None) is None


def test_a_device_of_known_power_takes_power_times_time_a_row() -> None:
    machine = Machine()
    side = FakeSide(machine, 1, machine.model(5))
    side.call("predict", [BATCH])
    watts = 20.0
    measurement = energy.energy(side, [BATCH], {"device": "cpu"}, ("a meter", lambda: watts * machine.now * 1e3))
    assert measurement is not None
    assert measurement.value == pytest.approx(watts * 5 / 2)  # 5 ms a call, two rows: mJ
    assert measurement.interval == pytest.approx((measurement.value, measurement.value))
    assert measurement.conditions["counter"] == "a meter"


def test_a_counter_that_stands_still_is_no_measurement() -> None:
    machine = Machine()
    side = FakeSide(machine, 1, machine.model(5))
    assert energy.energy(side, [BATCH], {}, ("a meter", lambda: 3.0)) is None
