"""Our memory figures beside what the operating system and the allocators report.

    python -m benchmarks.memory                  an array of known size, and MiniLM under the runtimes that are here
    python -m benchmarks.memory --check          exit 1 where ours is not what they say

Every model is opened and called in a process of its own. Ours are `peak_memory_mb` and its parts; beside them the
kernel's own figures of that process (/proc/PID/status and smaps_rollup), read from outside while it lives, and for
CUDA what torch's allocator and the driver say.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import header, timed_models
from objectives import memory
from objectives.bench import Batch, TimedCall, open_bench
from objectives.process import Remote

ARRAY_MB = 200
AGREE = 0.02  # of the peak, between ours and the kernel's
KNOWN = 0.05  # of what is known to be touched

COLUMNS = ("model", "peak", "VmHWM", "VmRSS now", "PSS now", "opening added", "weights on disk", "calls added")


def open_array(megabytes: int) -> TimedCall:
    """Holds half of `megabytes` once open, touches as much again in every call."""
    held = np.ones(megabytes * 125_000 // 2)

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        scratch = np.ones(megabytes * 125_000 // 2)
        return {"logits": (batch["input_ids"] * scratch[0] * held[0]).astype(np.float32)}

    return predict


def of_kernel(pid: int) -> dict[str, float]:
    """MB of 1e6 by the kernel's names; empty where there is no /proc."""
    figures: dict[str, float] = {}
    for file, wanted in (("status", ("VmHWM", "VmRSS")), ("smaps_rollup", ("Pss", "Private_Dirty"))):
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in wanted:
                figures[name] = int(value.split()[0]) * 1024 / 1e6
    return figures


def figures(name: str, bench: Remote, on_disk: float, calls: int = 20) -> dict[str, Any]:
    """Ours and theirs, after `calls` calls."""
    for _ in range(calls):
        bench.call("predict", timed_models.fed(batch=8, length=64)[:1])
    ours = {key: m.value for key, m in memory.memory(bench).items()}
    info: Mapping[str, Any] = bench.call("info")
    return {"model": name, "ours": ours, "kernel": of_kernel(bench.pid), "info": dict(info), "on_disk_mb": on_disk}


def row(figures: Mapping[str, Any]) -> tuple[str, ...]:
    ours, kernel = figures["ours"], figures["kernel"]
    cells = (
        ours.get("peak_memory_mb"),
        kernel.get("VmHWM"),
        kernel.get("VmRSS"),
        kernel.get("Pss"),
        ours.get("weights_memory_mb"),
        figures["on_disk_mb"],
        ours.get("activations_memory_mb"),
    )
    return (figures["model"], *("-" if cell is None else f"{cell:.1f}" for cell in cells))


def promises(rows: list[dict[str, Any]], device: str) -> list[header.Promise]:
    goals = []
    for figures in rows:
        if device == "cpu" and "VmHWM" in figures["kernel"]:
            ratio = figures["ours"]["peak_memory_mb"] / figures["kernel"]["VmHWM"]
            goals.append(header.Promise(f"{figures['model']}: our peak over VmHWM", ratio, 1 - AGREE, 1 + AGREE))
    array = rows[0]["ours"]
    for part in ("weights_memory_mb", "activations_memory_mb"):
        if part in array and device == "cpu":
            ratio = array[part] / (ARRAY_MB / 2)
            goals.append(header.Promise(f"array: {part} over what it touches", ratio, 1 - KNOWN, 1 + KNOWN))
    return goals


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--runtimes", nargs="*", default=["eager", "onnx"])
    arguments = parser.parse_args()
    device = arguments.device
    about = header.hardware(device)
    print(f"{header.heading(about)}\nMB of 1e6 bytes; MiniLM (6 layers), {device}, batch 8, length 64\n")
    with open_bench(functools.partial(open_array, ARRAY_MB), device) as bench:
        rows = [figures(f"array, {ARRAY_MB // 2} + {ARRAY_MB // 2} MB", bench, 0.0)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = timed_models.write_model(Path(temporary) / "model")
        on_disk = (folder / "model.safetensors").stat().st_size / 1e6
        for runtime in arguments.runtimes:
            with timed_models.opened(folder, runtime, device):  # the process that makes a graph is not the one measured
                pass
            with timed_models.opened(folder, runtime, device) as bench:
                rows.append(figures(runtime, bench, on_disk))
    print(header.table(COLUMNS, [row(one) for one in rows]))
    for one in rows:
        info = one["info"]
        if "cuda_reserved_mb" in info:
            reserved, allocated = info["cuda_reserved_mb"], info["cuda_allocated_mb"]
            print(f"{one['model']}: torch's allocator reserved {reserved:.1f} MB, of that allocated {allocated:.1f}")
    return header.finish(arguments, about, rows, promises(rows, device))


if __name__ == "__main__":
    sys.exit(main())
