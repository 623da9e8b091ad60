"""How much memory running a model takes: at its peak, and of that what it holds and what its calls add."""

from __future__ import annotations

from typing import Any

from objectives.measurement import Measurement, Objective
from objectives.timing import Side

PEAK = Objective("peak_memory_mb", "MB", "lower", "peak of resident memory (CPU) or allocated memory (CUDA), MB of 1e6")
WEIGHTS = Objective("weights_memory_mb", "MB", "lower", "memory that opening the model added, before any call")
ACTIVATIONS = Objective("activations_memory_mb", "MB", "lower", "memory that its calls added to that at their peak")

OBJECTIVES = (PEAK, WEIGHTS, ACTIVATIONS)


def memory(bench: Side) -> dict[str, Measurement]:
    """Memory of the process that holds a `Bench`, so far; ask after it has run what is to be covered.

    On a CPU the resident memory of the whole process, interpreter and libraries included, as the operating
    system counts it: weights are what opening added to it, activations what the calls added to that, with
    whatever a runtime puts off until its first call. They are absent where the peak also covers the opening,
    whose passing needs would be taken for activations.

    On CUDA what torch's allocator handed out (reserved memory is in the conditions); empty when the runtime
    does not use that allocator, because then nobody here saw what it took.
    """
    info = bench.call("info")
    kind, prefix = ("allocated", "cuda_allocated") if info["device"] == "cuda" else ("resident", "peak_rss")
    conditions: dict[str, Any] = {"device": info["device"], "kind": kind, "since": info["peak_since"]}
    peak = info[f"{prefix}_mb"]
    if info["device"] == "cuda":
        if peak == 0:
            return {}
        conditions |= {"reserved_mb": info["cuda_reserved_mb"], "resident_mb": info["peak_rss_mb"]}
    found = [PEAK.counted(peak, conditions)]
    opened, before = info.get("opened_mb"), info.get("empty_mb")
    if opened is not None and before is not None and (kind == "allocated" or info["peak_since"] == "opened"):
        found.append(WEIGHTS.counted(max(0.0, opened - before), conditions))
        found.append(ACTIVATIONS.counted(max(0.0, peak - opened), conditions))
    return {measurement.objective: measurement for measurement in found}


def peak_memory(bench: Side) -> Measurement | None:
    """The peak alone, or None where nobody saw it."""
    return memory(bench).get(PEAK.name)
