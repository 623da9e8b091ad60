"""Latency, throughput and speedup, derived from the times that `paired_timing` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from objectives import clock, generation_times, noise, paired_timing, stats
from objectives.arrays import Floats
from objectives.bench import Batch
from objectives.measurement import Measurement, Objective
from objectives.paired_timing import QUICK, Protocol, Read, Session, Side
from objectives.stats import Blocks
from objectives.workload import MARK, Workload, other

__all__ = ["OBJECTIVES", "QUICK", "Protocol", "Side", "measure"]

P50 = Objective("latency_p50_ms", "ms", "lower", "median time of a call, end to end on the host")
P90 = Objective("latency_p90_ms", "ms", "lower", "90th percentile of the time of a call (64 calls or more)")
P99 = Objective("latency_p99_ms", "ms", "lower", "99th percentile of the time of a call (662 calls or more)")
DEVICE_P50 = Objective(
    "device_p50_ms",
    "ms",
    "lower",
    "median time between CUDA events around a call (CUDA only)",
    missing=lambda device: "" if device == "cuda" else "CUDA events time it, so it needs a CUDA device",
)
THROUGHPUT = Objective("throughput_per_s", "rows/s", "higher", "rows answered in a second, one call after the other")
SPEEDUP_RATIO = Objective("speedup", "ratio", "higher", "the baseline's time over the candidate's, block by block")
FIRST_CALL = Objective("first_call_ms", "ms", "lower", "time of the very first call, which may compile")
COMPILE = Objective(
    "compile_ms", "ms", "lower", "time of the first call beyond a usual one: compiling, and what else is done once"
)
PREPARE = Objective("prepare_s", "s", "lower", "time to load and prepare the model before the first call")

OBJECTIVES = (P50, P90, P99, DEVICE_P50, THROUGHPUT, SPEEDUP_RATIO, FIRST_CALL, COMPILE, PREPARE)
TAIL_PERCENTILES = (90, 99)

#: Objectives that depend on the workload, and so may be measured under several.
BY_WORKLOAD = (P50, P90, P99, DEVICE_P50, THROUGHPUT, SPEEDUP_RATIO, *generation_times.OBJECTIVES)


def under_workload(objective: Objective, mark: str) -> Objective:
    """`objective` under the workload of suffix `mark` ("b32-l128"), with its name and description.

    Raises:
        ValueError: `objective` does not depend on the workload, or `mark` is no suffix of one.
    """
    if objective not in BY_WORKLOAD:
        names = ", ".join(o.name for o in BY_WORKLOAD)
        raise ValueError(f"a workload can be named for {names}, got {objective.name}{MARK}{mark}")
    other(Workload(), mark)
    description = f"{objective.description}; workload {mark}"
    return replace(objective, name=under(objective.name, mark), description=description)


def renamed(timed: Mapping[str, Measurement], mark: str) -> dict[str, Measurement]:
    """The workload-dependent measurements of `timed`, by their names under workload `mark` ("": the main one)."""
    names = {objective.name: under(objective.name, mark) for objective in BY_WORKLOAD if objective.name in timed}
    return {name: replace(timed[plain], objective=name) for plain, name in names.items()}


def of_workload(measured: Mapping[str, Measurement], mark: str) -> dict[str, Measurement]:
    """The measurements of workload `mark`, by their names under the main one: the inverse of `renamed`."""
    names = {objective.name: under(objective.name, mark) for objective in BY_WORKLOAD}
    return {plain: replace(measured[name], objective=plain) for plain, name in names.items() if name in measured}


def under(name: str, mark: str) -> str:
    """The name of objective `name` under workload `mark` ("": the main one): "latency_p50_ms/b32"."""
    return f"{name}{MARK}{mark}" if mark else name


def measure(
    candidate: Side,
    baseline: Side | None,
    inputs: Sequence[Batch],
    protocol: Protocol,
    seed: int,
    conditions: Mapping[str, Any],
    read: Read | None = None,
) -> dict[str, Measurement]:
    """Time `candidate`, side by side with `baseline` if there is one; measurements by name.

    Both are warmed up, then blocks of calls alternate in random order while the other side is stopped. `speedup` is
    there only with a baseline, `device_p50_ms` only on CUDA, p90 and p99 only with enough calls. All carry
    `conditions`, to which are added `noisy` ("" or the reasons not to trust the times) and `retried_for` (why earlier
    attempts were discarded). Both processes run when this returns.

    The intervals hold for these two processes; those of `campaign` cover differences between processes of one model.

    Args:
        inputs: batches, all of the same number of rows.
        seed: of the order of the blocks and of the bootstrap.
        conditions: those of all measurements; "batch" is the number of rows, where it is not that of `inputs`.
        read: reads the machine's counters; None: `clock.read` for the device of `conditions`.

    Raises:
        ValueError: batches of different numbers of rows.
        RemoteDied, RemoteTimeout: a process ended, or was ended for not answering.
    """
    rows = int(conditions["batch"]) if "batch" in conditions else rows_per_batch(inputs)
    reader = read or partial(clock.read, device=str(conditions.get("device", "cpu")))
    session = paired_timing.session(candidate, baseline, inputs, protocol, np.random.default_rng(seed), reader)
    blocks: Blocks = [session.candidate]
    # Of two sides that wander together the ratio is known better than the time of either.
    judged = ("median", stats.pooled(blocks, _median, seed)[0]) if baseline is None else ("ratio", session.ratio)
    noted = {**conditions, **_conditions(session, protocol, noise.of_estimate(*judged))}
    figures = call_times(blocks, [session.tokens], rows, seed, noted)
    if baseline is not None:
        figures.append(_speedup(session, noted))
    if session.device:
        figures.append(device_time([session.device], seed, noted))
    figures += first_call([float(session.info["first_call_ms"])], blocks, noted)
    figures.append(PREPARE.counted(float(session.info["prepare_s"]), noted))
    return {measurement.objective: measurement for measurement in figures}


def _conditions(session: Session, protocol: Protocol, loose: Sequence[str]) -> dict[str, Any]:
    """The conditions of the timing; each reason once, in order."""
    clocks = session.clocks_mhz
    return {
        "block_s": protocol.block_s,
        "blocks": protocol.blocks,
        "processes": 1,
        "warm_up": session.warm_up,
        "others_cpu_share": round(session.others, 4),
        "noisy": "; ".join(dict.fromkeys([*session.disturbances, *loose])),
        "retried_for": list(session.retried_for),
        **({} if clocks is None else {"gpu_clock_mhz": clocks[0], "gpu_max_clock_mhz": clocks[1]}),
    }


def call_times(
    blocks: Blocks, tokens: Sequence[Sequence[Floats]], rows: int, seed: int, conditions: Mapping[str, Any]
) -> list[Measurement]:
    """The measurements of `clock_times`, and those of single tokens where calls generate.

    `tokens` are the times of tokens by process and block, as `generation_times.token_times` takes them.
    """
    figures = clock_times(blocks, rows, seed, conditions)
    generated = generation_times.token_times(tokens, rows, seed, conditions) if tokens else []
    return [*figures, *([generation_times.whole_call(figures[0])] if generated else []), *generated]


def clock_times(blocks: Blocks, rows: int, seed: int, conditions: Mapping[str, Any]) -> list[Measurement]:
    """Median, throughput, and the tail percentiles that there are enough calls for.

    `blocks` are ms by process and block; `rows` is the number of rows of a call.
    """
    calls = sum(len(block) for process in blocks for block in process)
    tail = [(o, p) for o, p in zip((P90, P99), TAIL_PERCENTILES, strict=True) if stats.enough_for(p, calls)]
    percentiles: list[tuple[Objective, float]] = [(P50, 50), *tail]
    points = [percentile for _, percentile in percentiles]
    estimates = stats.pooled(blocks, lambda times: np.percentile(times, points), seed)
    figures = [
        objective.measured(estimate.value, estimate.interval, calls, conditions)
        for (objective, _), estimate in zip(percentiles, estimates, strict=True)
    ]
    [estimate] = stats.pooled(blocks, lambda times: np.array([rows * 1e3 / times.mean()]), seed)
    return [*figures, THROUGHPUT.measured(estimate.value, estimate.interval, calls, conditions)]


def device_time(blocks: Blocks, seed: int, conditions: Mapping[str, Any]) -> Measurement:
    """The median of times between CUDA events; `blocks` are ms by process and block."""
    [estimate] = stats.pooled(blocks, _median, seed)
    calls = sum(len(block) for process in blocks for block in process)
    return DEVICE_P50.measured(estimate.value, estimate.interval, calls, conditions)


def first_call(milliseconds: Sequence[float], blocks: Blocks, conditions: Mapping[str, Any]) -> list[Measurement]:
    """The time of the first call, and how much longer it takes than a usual call (compilation).

    `milliseconds` has the first call of each process, `blocks` the ms of its usual ones by block.
    """
    usual = [float(np.median(np.concatenate(list(process)))) for process in blocks]
    beyond = [max(0.0, first - later) for first, later in zip(milliseconds, usual, strict=True)]
    return [_once(FIRST_CALL, milliseconds, conditions), _once(COMPILE, beyond, conditions)]


def _speedup(session: Session, conditions: Mapping[str, Any]) -> Measurement:
    """Ratio of the blocks' medians, paired by round."""
    noted = {**conditions, "baseline_p50_ms": float(np.median(np.concatenate(session.baseline)))}
    ratio = session.ratio
    return SPEEDUP_RATIO.measured(ratio.value, ratio.interval, len(session.first), noted)


def _once(objective: Objective, values: Sequence[float], conditions: Mapping[str, Any]) -> Measurement:
    """A measurement with one value per process."""
    if len(values) == 1 or min(values) <= 0:
        return objective.counted(values[0], conditions)
    estimate = stats.over_processes(np.array(values))
    return objective.measured(estimate.value, estimate.interval, len(values), conditions)


def _median(times: Floats) -> Floats:
    return np.percentile(times, [50])


def rows_per_batch(inputs: Sequence[Batch]) -> int:
    """The number of rows of each batch.

    Raises:
        ValueError: batches of different numbers of rows.
    """
    counts = {len(array) for batch in inputs for array in batch.values()}
    if len(counts) != 1:
        raise ValueError(f"all inputs must have the same number of rows, got {sorted(counts)}")
    return counts.pop()
