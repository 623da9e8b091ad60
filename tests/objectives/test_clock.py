"""The share of the machine that others take, and the fingerprint."""

from __future__ import annotations

import builtins
import io
import json
import os
import stat
from pathlib import Path

import pytest

from objectives import clock
from objectives.clock import Reading, busy


def test_what_our_processes_use_is_not_somebody_elses() -> None:
    before = Reading(at=0, cpus=2, everybody=100, processes=(10, 0))
    assert busy(before, Reading(10, 2, 112, (14, 8))) == 0
    assert busy(before, Reading(10, 2, 112, (14, 3))) == pytest.approx(5 / 20)
    assert busy(before, Reading(10, 2, 120, (10, 0))) == 1


def test_the_share_stays_a_share_when_counters_tick_unevenly_or_a_process_is_gone() -> None:
    before = Reading(at=0, cpus=2, everybody=100, processes=(10,))
    assert busy(before, Reading(1, 2, 101.0, (11.5,))) == 0
    assert busy(before, Reading(1, 2, 103.0, (0.0,))) == 1
    assert busy(before, Reading(0, 2, 100.0, (10,))) == 0


def test_processor_time_is_read_and_grows() -> None:
    before = clock.read([os.getpid()])
    sum(i * i for i in range(2_000_000))
    after = clock.read([os.getpid()])
    assert after.processes[0] > before.processes[0]
    assert after.everybody >= before.everybody
    assert after.at > before.at
    assert 1 <= after.cpus <= (os.cpu_count() or 1)


def test_a_process_that_is_gone_has_used_nothing() -> None:
    assert clock.read([2**22 + 1]).processes == (0.0,)


def test_the_fingerprint_is_json_and_says_what_a_time_depends_on() -> None:
    fingerprint = clock.fingerprint("cpu")
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["cpu"]
    assert fingerprint["cores"] >= 1
    assert fingerprint["gpu"] == []
    assert set(fingerprint["libraries"]) >= {"torch", "transformers", "numpy"}


@pytest.mark.parametrize(("status", "gpus"), [(0, 1), (9, 0)])
def test_the_gpu_is_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, gpus: int
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(
        f"#!/bin/sh\necho 'NVIDIA H200, 570.1, 143771 MiB, 345 MHz, 1980 MHz, 700.00 W'\nexit {status}\n"
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    cards = clock.fingerprint("cuda")["gpu"]
    assert len(cards) == gpus
    assert all(gpu["name"] == "NVIDIA H200" and gpu["power.limit"] == "700.00 W" for gpu in cards)


def test_steal_and_the_quota_are_shares_of_the_time() -> None:
    before = Reading(at=0, cpus=2, everybody=100, processes=(10,), steal=5, held_back=1)
    after = Reading(at=10, cpus=2, everybody=112, processes=(20,), steal=7, held_back=1.5)
    assert busy(before, after) == pytest.approx(0.1)
    assert clock.stolen(before, after) == pytest.approx(0.1)
    assert clock.held_back(before, after) == pytest.approx(0.05)


GPU = {"name": "H200", "clocks.sm": "345 MHz", "power.limit": "700 W"}


def test_a_fingerprint_is_the_same_while_only_the_clock_moves() -> None:
    one = {"cpu": "EPYC", "gpu": [GPU]}
    later, capped = (
        {"cpu": "EPYC", "gpu": [{**GPU, **change}]} for change in ({"clocks.sm": "9"}, {"power.limit": "5"})
    )
    assert clock.machine_difference(one, later) == ""
    assert clock.digest(one) == clock.digest(later)
    assert clock.machine_difference(one, capped).startswith("gpu: ")
    assert clock.digest(one) != clock.digest(capped)


def test_two_fingerprints_differ_in_what_is_named() -> None:
    assert (
        clock.machine_difference({"cpu": "A", "cores": 2, "gpu": []}, {"cpu": "B", "cores": 2})
        == "cpu: A there, B here"
    )
    there = {"cpu": "A", "libraries": {"torch": "2.12", "openvino": "2026.4"}, "python": "3.11.9"}
    here = {"cpu": "A", "libraries": {"torch": "2.13"}, "python": "3.12.0"}
    message = clock.machine_difference(there, here)
    assert message == "python: 3.11 there, 3.12 here; torch: 2.12 there, 2.13 here; openvino: 2026.4 there, none here"


def test_a_machine_is_the_same_with_another_kernel_governor_and_some_memory_less() -> None:
    here = clock.fingerprint("cpu")
    moved = {"governor": "other", "memory_gb": here["memory_gb"] - 0.1, "platform": "Linux-9", "python": "3.11.99"}
    later = {**here, **moved, "python": f"{here['python'].rpartition('.')[0]}.99"}
    assert clock.machine_difference(here, later) == "" and clock.digest(here) == clock.digest(later)
    for name, value in (("cpu", "Z80"), ("cpus", 99), ("instructions", ["avx9"]), ("device", "abacus")):
        assert clock.machine_difference(here, {**here, name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize(("quota", "count"), [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2)])
def test_a_container_of_two_cpus_on_64_cores_has_two(monkeypatch: pytest.MonkeyPatch, quota: str, count: int) -> None:
    """A quota of a part of a CPU counts as a whole one."""
    path, there, opened = "/sys/fs/cgroup/cpu.max", os.path.exists, builtins.open
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(os.path, "exists", lambda name: name == path or there(name))
    monkeypatch.setattr(
        builtins, "open", lambda name, *a, **k: io.StringIO(quota) if name == path else opened(name, *a, **k)
    )
    assert clock.cpus() == count
