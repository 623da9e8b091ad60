"""Memory of a running model: its peak, the share of its weights, and what its calls add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from objectives import gpu
from objectives.measurement import Measurement, Objective
from objectives.paired_timing import Side

PEAK_MEMORY = Objective(
    "peak_memory_mb", "MB", "lower", "peak of resident memory (CPU) or allocated memory (CUDA), MB of 1e6"
)
WEIGHTS_MEMORY = Objective("weights_memory_mb", "MB", "lower", "memory that opening the model added, before any call")
ACTIVATIONS_MEMORY = Objective(
    "activations_memory_mb", "MB", "lower", "memory that its calls added to that at their peak"
)

OBJECTIVES = (PEAK_MEMORY, WEIGHTS_MEMORY, ACTIVATIONS_MEMORY)


def memory(bench: Side) -> dict[str, Measurement]:
    """The memory so far, in MB of 1e6 bytes, of the process that holds a `Bench`; call it after the model has run.

    On a CPU: the resident memory of the whole process, interpreter and libraries included. Weights are what opening
    added to it, activations what the calls added to that, including what a runtime allocates in its first call. Both
    are absent where the peak also covers the opening, whose temporary memory would be counted as activations.

    On CUDA: what torch's allocator handed out (reserved memory is in the conditions); empty where the runtime does not
    use that allocator, because its memory cannot be observed.
    """
    info = bench.call("info")
    kind, prefix = ("allocated", "cuda_allocated") if info["device"] == "cuda" else ("resident", "peak_rss")
    conditions: dict[str, Any] = {"device": info["device"], "kind": kind, "since": info["peak_since"]}
    peak = info[f"{prefix}_mb"]
    if info["device"] == "cuda":
        if peak == 0:
            return {}
        conditions |= {"reserved_mb": info["cuda_reserved_mb"], "resident_mb": info["peak_rss_mb"]}
    measurements = [PEAK_MEMORY.counted(peak, conditions)]
    opened, before = info.get("opened_mb"), info.get("empty_mb")
    if opened is not None and before is not None and (kind == "allocated" or info["peak_since"] == "opened"):
        measurements.append(WEIGHTS_MEMORY.counted(max(0.0, opened - before), conditions))
        measurements.append(ACTIVATIONS_MEMORY.counted(max(0.0, peak - opened), conditions))
    return {measurement.objective: measurement for measurement in measurements}


#: Share of the free memory that is planned with; the rest is left to other processes.
COUNTED_ON = 0.8
#: MB that a process uses on a GPU beside what torch's allocator hands out: CUDA's own context.
CUDA_CONTEXT_MB = 600.0


def available_mb(device: str) -> float | None:
    """MB that models opened together may take on `device`, `COUNTED_ON` of what is free; None where it is unknown."""
    free = gpu.free_mb() if device == "cuda" else min(psutil.virtual_memory().available / 1e6, *container_limits_mb())
    return None if free is None else COUNTED_ON * free


def held_mb(measured: Measurement, device: str) -> float:
    """MB that a process holds at its peak, from its `peak_memory_mb` and CUDA's context."""
    return measured.value + (CUDA_CONTEXT_MB if device == "cuda" else 0.0)


def container_limits_mb(group: Path = Path("/sys/fs/cgroup")) -> list[float]:
    """[MB left to this process's control group] (version 2, as a container sees it); [inf] without a limit."""
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cache = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
        return [(int(limit) - int(used) + cache) / 1e6]
    except (OSError, ValueError, StopIteration):
        return [float("inf")]
