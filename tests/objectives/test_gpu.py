"""The management library: asked for what it knows, and never missed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from objectives import clock, energy, gpu
from objectives.fork_server import PRELOADED
from search.compose import OPENING

ROOT = Path(__file__).parents[2]


class NVMLError(Exception):
    pass


class Library(SimpleNamespace):
    """A driver that knows one device, and not how long it was throttled."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        super().__init__(asked=[], millijoules=5000, pids=[1, 2])

    def nvmlInit(self) -> None: ...  # noqa: N802 - the library's names
    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        self.asked.append(index)
        return f"device {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked.append(uuid)
        return f"device {uuid}"

    def nvmlDeviceGetClockInfo(self, device: str, kind: int) -> int:  # noqa: N802
        return 1200

    def nvmlDeviceGetMaxClockInfo(self, device: str, kind: int) -> int:  # noqa: N802
        return 1980

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: str) -> int:  # noqa: N802
        return 0x20

    def nvmlDeviceGetComputeRunningProcesses(self, device: str) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.pids]

    def nvmlDeviceGetViolationStatus(self, device: str, policy: int) -> Any:  # noqa: N802
        raise NVMLError

    def nvmlDeviceGetTotalEnergyConsumption(self, device: str) -> int:  # noqa: N802
        return int(self.millijoules)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    nvml = Library()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return nvml


def test_what_the_driver_does_not_know_is_left_open(library: Library) -> None:
    assert gpu.state() == gpu.GpuState(1200, 1980, 0x20, (None, None), 2)


def test_who_asks_does_not_count_among_the_processes_on_the_gpu(library: Library) -> None:
    """A search that asked torch what the device is may hold it without computing; its models run in other processes."""
    library.pids = [1, os.getpid(), 2]
    state = gpu.state()
    assert state is not None and state.processes == 2


@pytest.mark.parametrize(("visible", "asked"), [("", 0), ("3,1", 3), ("GPU-8f2a", "GPU-8f2a")])
def test_the_device_that_cuda_shows_is_the_one_that_is_asked(
    library: Library, monkeypatch: pytest.MonkeyPatch, visible: str, asked: int | str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu.state()
    assert library.asked == [asked]


def test_without_the_library_nothing_is_known_and_nothing_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu.state() is None
    assert gpu.energy_mj() is None
    assert energy.counter("cuda") is None
    assert clock.read([], device="cuda").gpu is None


def test_the_gpus_energy_is_counted_where_the_driver_counts_it(library: Library) -> None:
    counted = energy.counter("cuda")
    assert counted is not None
    assert counted[0] == "GPU (NVML)"
    assert counted[1]() == 5000


ASKED = """
import importlib, sys, torch
asked = []
def refuse(name):
    def ask(*args, **kwargs):
        asked.append(name)
        return {"is_available": False, "device_count": 0}.get(name)
    return ask
names = ("init", "is_available", "device_count", "current_device", "get_device_capability", "get_device_properties")
for name in names:
    setattr(torch.cuda, name, refuse(name))
for name in sys.argv[1:]:
    importlib.import_module(name)
print(asked)
"""


def test_what_the_fork_server_imports_asks_nothing_of_cuda() -> None:
    """CUDA that was asked before a fork works in no process that is forked after: every model would fail to open."""
    command = [sys.executable, "-c", ASKED, *PRELOADED, *OPENING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
