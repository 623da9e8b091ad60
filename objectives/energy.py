"""Energy of a call, where the device has a readable counter. Without one there is no measurement and no estimate."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from objectives import gpu, stats
from objectives.bench import Batch
from objectives.measurement import Measurement, Objective
from objectives.paired_timing import Side


def _missing(device: str) -> str:
    """Why no energy counter can be read for a device; "" where one can."""
    if counter(device) is not None:
        return ""
    if device == "cuda":
        return "no energy counter of the GPU can be read (it needs pip install nvidia-ml-py, and Volta or later)"
    return f"no energy counter of the CPU can be read (RAPL in {POWERCAP}, which most systems let only root read)"


ENERGY = Objective(
    "energy_mj", "mJ", "lower", "energy a row takes, idle power included, where the device counts it", _missing
)

OBJECTIVES = (ENERGY,)

#: Counters are updated every millisecond (RAPL) to every tenth of a second (NVML): a block must last many updates.
BLOCK_S = 1.0
BLOCKS = 6
POWERCAP = Path("/sys/class/powercap")

#: Millijoules used since some moment in the past.
Counter = Callable[[], float]


def counter(device: str, powercap: Path | None = None) -> tuple[str, Counter] | None:
    """(the counter's name, the counter), or None where the device has none that this process may read.

    For "cuda" the whole GPU (NVML); for "cpu" all processor packages together (RAPL through powercap, which most
    systems let only root read). Both include idle power and the energy of other processes.
    """
    if device == "cuda":
        return None if gpu.energy_mj() is None else ("GPU (NVML)", _of_gpu)
    zones = sorted(path for path in (powercap or POWERCAP).glob("intel-rapl:*") if path.name.count(":") == 1)
    readable = [zone for zone in zones if os.access(zone / "energy_uj", os.R_OK)]
    return ("CPU packages (RAPL)", Packages(readable)) if readable and len(readable) == len(zones) else None


class Packages:
    """The sum, in mJ, of the energy counters of all processor packages, corrected for their wrap-around."""

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = zones
        self._last = [self._read(zone, "energy_uj") for zone in zones]
        self._total = 0.0

    def __call__(self) -> float:
        now = [self._read(zone, "energy_uj") for zone in self._zones]
        for zone, before, after in zip(self._zones, self._last, now, strict=True):
            over = 0 if after >= before else self._read(zone, "max_energy_range_uj")
            self._total += (after - before + over) / 1e3
        self._last = now
        return self._total

    @staticmethod
    def _read(zone: Path, name: str) -> int:
        return int((zone / name).read_text())


def energy(
    side: Side,
    inputs: Sequence[Batch],
    conditions: Mapping[str, Any],
    counted: tuple[str, Counter] | None,
    block_s: float = BLOCK_S,
) -> Measurement | None:
    """Energy per row in mJ: the median of `BLOCKS` blocks of calls, each between two readings of the counter.

    The untimed call before each block (`Bench.block`) is counted as one more call. None without a counter, or where
    the counter stands still.
    """
    if counted is None:
        return None
    name, read = counted
    rows = int(conditions.get("batch", len(next(iter(inputs[0].values())))))
    samples = []
    for _ in range(BLOCKS):
        before = read()
        calls = len(side.call("block", inputs, block_s, 2))
        samples.append((read() - before) / (rows * (calls + 1)))
    if min(samples) <= 0:
        return None  # the counter stood still: it counts something else
    value = float(np.median(samples))
    interval = stats.median_interval(np.array(samples))
    return ENERGY.measured(value, interval, BLOCKS, {**conditions, "counter": name, "idle_power": "included"})


def _of_gpu() -> float:
    millijoules = gpu.energy_mj()
    if millijoules is None:
        raise RuntimeError("the GPU's energy counter stopped answering")
    return float(millijoules)
