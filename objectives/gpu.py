"""The state of the measured GPU from NVIDIA's management library: clocks, throttling, energy, other processes.

Optional: without the `nvidia-ml-py` package (`pip install nvidia-ml-py`), or without a driver, every reading is None.
Reading makes no CUDA context in this process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Clock-event reasons that mean reduced speed, by bit (nvml.h, nvmlClocksEventReasons).
THROTTLED = {
    0x04: "its power cap",
    0x08: "a hardware slowdown",
    0x20: "its temperature",
    0x40: "its temperature (hardware)",
    0x80: "a power brake",
}

#: Cumulative counters of time below the clocks asked for, by policy (nvml.h, nvmlPerfPolicyType_t).
POLICIES = {0: "its power cap", 1: "its temperature"}


@dataclass(frozen=True, slots=True)
class GpuState:
    """One reading of the GPU; None or empty where the driver does not say."""

    clock_mhz: int | None = None  # of the streaming multiprocessors, now
    max_clock_mhz: int | None = None
    reasons: int = 0  # bit mask of clock-event reasons, now
    throttled_ns: tuple[int | None, ...] = ()  # so far, by `POLICIES`
    processes: int = 0  # that compute on it, without this process, which computes nothing while others are timed


def state() -> GpuState | None:
    """The state of the GPU that is "cuda" in torch, or None where it cannot be read."""
    with _device() as (nvml, device):
        if device is None:
            return None
        running = _ask(nvml, "nvmlDeviceGetComputeRunningProcesses", device) or ()
        return GpuState(
            clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", device, 1),
            max_clock_mhz=_ask(nvml, "nvmlDeviceGetMaxClockInfo", device, 1),
            reasons=_ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", device) or 0,
            throttled_ns=tuple(_violation(nvml, device, policy) for policy in POLICIES),
            processes=sum(1 for p in running if getattr(p, "pid", None) != os.getpid()),
        )


def free_mb() -> float | None:
    """Free memory, in MB of 1e6 bytes, of the GPU that is "cuda" in torch, or None where it cannot be read."""
    with _device() as (nvml, device):
        answer = None if device is None else _ask(nvml, "nvmlDeviceGetMemoryInfo", device)
    return None if answer is None else float(answer.free) / 1e6


def energy_mj() -> int | None:
    """Millijoules that the GPU used since its driver was loaded (Volta and later), or None."""
    with _device() as (nvml, device):
        answer = None if device is None else _ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", device)
    return answer if isinstance(answer, int) else None


def disturbed(before: GpuState | None, after: GpuState | None, seconds: float, ours: int) -> list[str]:
    """Why times between two readings, `seconds` apart, are not the GPU's best: throttling, or other processes.

    `ours` is the number of processes of this program that compute on it.
    """
    if before is None or after is None:
        return []
    reasons = []
    for policy, earlier, later in zip(POLICIES.values(), before.throttled_ns, after.throttled_ns, strict=False):
        if earlier is not None and later is not None and later - earlier > 0.01 * seconds * 1e9:
            reasons.append(f"the GPU was slowed by {policy} for {(later - earlier) / 1e9 / seconds:.0%} of the time")
    named = " ".join(reasons)
    for bit, reason in THROTTLED.items():
        if after.reasons & bit and reason not in named:
            reasons.append(f"the GPU was slowed by {reason} at {after.clock_mhz} of {after.max_clock_mhz} MHz")
    if after.processes > ours:
        reasons.append(f"{after.processes} processes computed on the GPU, {ours} of them ours")
    return reasons


@contextlib.contextmanager
def _device() -> Iterator[tuple[Any, Any]]:
    """(library, handle of the device that is "cuda" here), or (None, None)."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, or one too old: all mean that nothing can be asked
        yield None, None
        return
    try:
        yield pynvml, _handle(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _handle(nvml: Any) -> Any:
    """The first of `CUDA_VISIBLE_DEVICES`, a number or a UUID: NVML counts all devices, CUDA only the visible ones."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
    if first.isdigit():
        return _ask(nvml, "nvmlDeviceGetHandleByIndex", int(first))
    return _ask(nvml, "nvmlDeviceGetHandleByUUID", first)


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """The driver's answer, or None where it does not support the function."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def _violation(nvml: Any, device: Any, policy: int) -> int | None:
    answer = _ask(nvml, "nvmlDeviceGetViolationStatus", device, policy)
    return None if answer is None else int(answer.violationTime)
