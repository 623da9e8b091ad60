"""The machine on which a measurement is taken, and its load from other processes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from objectives import gpu

#: Packages whose version can change a measured number.
LIBRARIES = (
    "torch",
    "transformers",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "jaxlib",
    "torchao",
    "triton",
)

#: Instruction sets that decide which kernels run.
INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)

GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "power.limit")


def fingerprint(device: str) -> dict[str, Any]:
    """The conditions of a time other than the model: processor, GPUs (for "cuda" only), library versions, system."""
    return {
        "device": device,
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "cpus": cpus(),
        "instructions": _instructions(),
        "governor": _governor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": nvidia_gpus() if device == "cuda" else [],
        "libraries": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


#: Fields of a fingerprint's GPUs that change by the minute and do not identify a machine.
VOLATILE = ("clocks.sm",)


def steady(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """`fingerprint` without the fields that change by the minute."""
    gpus = [{k: v for k, v in gpu.items() if k not in VOLATILE} for gpu in fingerprint.get("gpu") or []]
    return {**fingerprint, "gpu": gpus}


#: Fields of a fingerprint, and of each of its GPUs, on which times and outputs depend: they identify a machine.
#: Clock rate and governor vary on one machine, as load does; kernel patches, and memory that the system reserves,
#: change no time. Library versions count too, because their kernels differ.
TELLING = ("device", "cpu", "cores", "cpus", "instructions")
TELLING_GPU = ("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit")


def machine_facts(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """The fields that identify a machine and its software (`TELLING`, Python, libraries), as text by name."""
    facts = {name: _plain(fingerprint[name]) for name in TELLING if name in fingerprint}
    gpus = fingerprint.get("gpu") or []
    facts["gpu"] = "; ".join(", ".join(str(gpu[n]) for n in TELLING_GPU if n in gpu) for gpu in gpus) or "none"
    facts["python"] = ".".join(str(fingerprint.get("python", "")).split(".")[:2])
    return facts | {name: str(version) for name, version in (fingerprint.get("libraries") or {}).items()}


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that are equal for the same machine with the same libraries."""
    text = json.dumps(machine_facts(fingerprint), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def machine_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """ "" when two fingerprints are those of one machine, else what differs: "cpu: X there, Y here; torch: ..."."""
    one, other = machine_facts(there), machine_facts(here)
    unlike = [name for name in dict.fromkeys((*one, *other)) if one.get(name) != other.get(name)]
    return "; ".join(f"{name}: {one.get(name) or 'none'} there, {other.get(name) or 'none'} here" for name in unlike)


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of CPU time so far, in seconds: of all processes together, and of each process of interest."""

    at: float
    cpus: int  # how many this program may use; only these are read
    everybody: float  # on those CPUs together; includes what the hypervisor gave to others ("steal")
    processes: tuple[float, ...]
    steal: float = 0.0
    held_back: float = 0.0  # that the container's quota made its processes wait
    gpu: gpu.GpuState | None = None


def read(pids: Sequence[int], device: str = "cpu") -> Reading:
    """The counters now. A process of `pids` that is gone counts as 0; the GPU is read for "cuda" only."""
    usable = _usable_cpus()
    used = [times for number, times in enumerate(psutil.cpu_times(percpu=True)) if number in usable]
    # Guest time is left out because it is already inside user time.
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    everybody = sum(getattr(times, kind, 0.0) for times in used for kind in kinds)
    return Reading(
        at=time.monotonic(),
        cpus=len(usable),
        everybody=everybody,
        processes=tuple(_process_time(pid) for pid in pids),
        steal=sum(getattr(times, "steal", 0.0) for times in used),
        held_back=_held_back(),
        gpu=gpu.state() if device == "cuda" else None,
    )


def busy(before: Reading, after: Reading) -> float:
    """Share, 0 to 1, of the usable CPUs' time between two readings that processes not of interest used."""
    seconds = after.at - before.at
    if seconds <= 0:
        return 0.0
    ours = sum(max(0.0, b - a) for a, b in zip(before.processes, after.processes, strict=True))
    others = after.everybody - before.everybody - ours
    return min(1.0, max(0.0, others / (seconds * after.cpus)))


def stolen(before: Reading, after: Reading) -> float:
    """Share, 0 to 1, of the usable CPUs' time that the hypervisor gave to other machines; part of `busy`."""
    seconds = after.at - before.at
    return 0.0 if seconds <= 0 else min(1.0, max(0.0, (after.steal - before.steal) / (seconds * after.cpus)))


def held_back(before: Reading, after: Reading) -> float:
    """Share of the time in which the container's CPU quota made its processes wait; may pass 1 with several CPUs."""
    seconds = after.at - before.at
    return 0.0 if seconds <= 0 else max(0.0, (after.held_back - before.held_back) / seconds)


def cpus() -> int:
    """How many CPUs' worth of time this process may use: those it may run on, and no more than a container's quota.

    A quota of a part of a CPU counts as a whole one.
    """
    from loky import cpu_count

    return int(cpu_count())


@functools.cache
def cpu_model() -> str:
    """The processor's name, "Intel(R) Xeon(R) ..."."""
    named = _cpuinfo("model name")
    return named or platform.processor() or platform.machine()


def _process_time(pid: int) -> float:
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(used.user + used.system)


def _held_back() -> float:
    """Seconds so far, from the control group this process is in (version 2 as a container sees it)."""
    try:
        lines = Path("/sys/fs/cgroup/cpu.stat").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1e6 for line in lines if line.startswith("throttled_usec ")), 0.0)


def _usable_cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":", 1)[0].strip() == key), "")


@functools.cache
def _instructions() -> list[str]:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [name for name in INSTRUCTIONS if name in flags]


def _governor() -> str:
    """How the clock rate is governed ("performance", "powersave"), or "" where the system does not say."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return ""


def nvidia_gpus() -> list[dict[str, str]]:
    """`GPU_FIELDS` of every GPU from nvidia-smi, which makes no CUDA context in this process."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    rows = [line.split(", ") for line in answer.stdout.splitlines()] if answer.returncode == 0 else []
    return [dict(zip(GPU_FIELDS, row, strict=True)) for row in rows]


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
