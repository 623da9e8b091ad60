"""Lower bounds on a model's time on this device: what it must read and compute, over the device's ceilings.

The floor of a call is max(bytes / bandwidth, operations / peak) (Williams, Waterman & Patterson, 2009, "Roofline").
Everything is counted so that the floor is low rather than high: each weight is read once per call, activations stay in
cache, an embedding costs only the rows that are read, padding is skipped, and a ceiling is the best measured value. So
a time below the floor is a bug, of the measurement or of the counting.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from objectives.bench import Batch
from objectives.ceilings import BYTES, Ceilings
from objectives.generation_times import TPOT
from objectives.measurement import Measurement, Objective
from objectives.workload import TIMED_NEW_TOKENS

FLOOR = Objective("floor_ms", "ms", "lower", "roofline: the least a call can take, from what it reads and computes")
FRACTION = Objective("roofline_fraction", "ratio", "higher", "roofline: the floor over the median time; 1 is the best")
STEP_FRACTION = Objective(
    "decode_roofline_fraction",
    "ratio",
    "higher",
    "roofline of a generated token: its floor over tpot_ms",
)

OBJECTIVES = (FLOOR, FRACTION, STEP_FRACTION)

#: A median may be this share below the floor before it counts as a bug, because ceilings are measured too.
TOLERANCE = 0.05

#: (inputs, outputs) of a matrix; a low-rank pair is two.
MatrixShape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a transformer that determine its least work; the caller, who knows the model, fills them in."""

    token_matrices: tuple[MatrixShape, ...]  # every token passes them
    row_matrices: tuple[MatrixShape, ...]  # once a row: pooler and head
    attention: tuple[int, ...]  # by block, heads * head size of the queries
    tables: tuple[int, ...]  # widths of the embedding tables of which each token reads a row
    row_precision: str | None = None  # of `row_matrices`, a key of `BYTES`; None: that of the other matrices
    cache_bytes: float = 0.0  # of the keys and values of one row that a step of generation reads

    @property
    def weights(self) -> int:
        """The number of elements of all matrices, each read once per call."""
        return sum(a * b for a, b in (*self.token_matrices, *self.row_matrices))


@dataclass(frozen=True, slots=True)
class Work:
    """The least operations and memory traffic of one call."""

    operations: float  # multiplications and additions
    bytes: float


@dataclass(frozen=True, slots=True)
class Floor:
    """The least time of a typical call, and which ceiling sets it."""

    ms: float
    bound: str  # "compute" or "memory"
    work: Work
    peak: float  # operations a second
    bandwidth: float  # bytes a second
    step_ms: float | None = None  # of each token after the first, of a call that generates


def work(sizes: Sizes, lengths: Sequence[int], precision: str) -> Work:
    """The least work of a call whose rows have `lengths` real tokens each.

    `precision` is that of the weights, a key of `BYTES`. Blocks that stay in a wider precision are counted in it too,
    and scales of quantised weights are not counted, so the floor may be low.

    A matrix costs 2 * inputs * outputs operations per token. Attention costs 4 * length^2 * heads * head size per row
    and block, scores and weighted sum together (Kaplan et al., 2020, table 1, without the average over a causal mask).

    Raises:
        ValueError: an unknown precision.
    """
    tokens = sum(lengths)
    squares = sum(length * length for length in lengths)
    operations = (
        2 * tokens * sum(a * b for a, b in sizes.token_matrices)
        + 2 * len(lengths) * sum(a * b for a, b in sizes.row_matrices)
        + 4 * squares * sum(sizes.attention)
    )
    # Rows may repeat, and then are read once: a row a table is the least.
    return Work(float(operations), _bytes_read(sizes, precision))


def step_work(sizes: Sizes, length: int, rows: int, precision: str) -> Work:
    """The least work of one generated token for each of `rows` rows, after `length` tokens.

    All weights are read, and the key-value cache of each row.
    """
    operations = 2 * rows * sizes.weights + 4 * rows * length * sum(sizes.attention)
    return Work(float(operations), _bytes_read(sizes, precision) + rows * sizes.cache_bytes)


def _bytes_read(sizes: Sizes, precision: str) -> float:
    """Of all matrices, and of a row of every table."""
    of_rows = sum(a * b for a, b in sizes.row_matrices)
    others = sizes.weights - of_rows + sum(sizes.tables)
    return float(_bytes_of(precision) * others + _bytes_of(sizes.row_precision or precision) * of_rows)


def floor(sizes: Sizes, inputs: Sequence[Batch], precision: str, ceilings: Ceilings) -> Floor:
    """The floor of the median call of a workload, to be compared with a median time.

    A call that generates costs its prompt, and a step of `step_work` for each token after the first.
    """
    prompt = _floor_of_pass(sizes, inputs, precision, ceilings)
    new_tokens = int(inputs[0][TIMED_NEW_TOKENS][0]) if TIMED_NEW_TOKENS in inputs[0] else 0
    if new_tokens < 2:
        return prompt
    rows, length = inputs[0]["attention_mask"].shape
    step = step_work(sizes, int(length), int(rows), precision)
    seconds = (step.operations / prompt.peak, step.bytes / prompt.bandwidth)
    steps = new_tokens - 1
    total = Work(prompt.work.operations + steps * step.operations, prompt.work.bytes + steps * step.bytes)
    return Floor(
        ms=prompt.ms + steps * max(seconds) * 1e3,
        bound="compute" if seconds[0] >= seconds[1] else "memory",
        work=total,
        peak=prompt.peak,
        bandwidth=prompt.bandwidth,
        step_ms=max(seconds) * 1e3,
    )


def _floor_of_pass(sizes: Sizes, inputs: Sequence[Batch], precision: str, ceilings: Ceilings) -> Floor:
    calls = [work(sizes, batch["attention_mask"].sum(1).tolist(), precision) for batch in inputs]
    peak, bandwidth = ceilings.peak(precision), ceilings.bandwidth(int(calls[0].bytes))
    seconds = [max(call.operations / peak, call.bytes / bandwidth) for call in calls]
    middle = int(np.argsort(seconds)[(len(seconds) - 1) // 2])
    call = calls[middle]
    bound = "compute" if call.operations / peak >= call.bytes / bandwidth else "memory"
    return Floor(seconds[middle] * 1e3, bound, call, peak, bandwidth)


def reached(floor: Floor, median: Measurement) -> dict[str, Measurement]:
    """The floor and the fraction of it that a median time (ms) reaches, by name."""
    low, high = median.interval
    conditions = {
        **median.conditions,
        "bound": floor.bound,
        "flops": floor.work.operations,
        "bytes": floor.work.bytes,
        "peak_flops_per_s": floor.peak,
        "bandwidth_bytes_per_s": floor.bandwidth,
        "under_floor": below_floor(floor, median),
    }
    fraction = FRACTION.measured(floor.ms / median.value, (floor.ms / high, floor.ms / low), median.samples, conditions)
    return {FLOOR.name: FLOOR.counted(floor.ms, conditions), FRACTION.name: fraction}


def below_floor(floor: Floor, median: Measurement) -> str:
    """A sentence where a median time (ms) is below the floor, which is a bug; else ""."""
    if median.value >= floor.ms * (1 - TOLERANCE):
        return ""
    return (
        f"a median of {median.value:.3g} ms is under the roofline floor of {floor.ms:.3g} ms ({floor.bound}): a bug in "
        "the measurement or in the count of its work"
    )


def held_against(floor: Floor, timed: Mapping[str, Measurement], median: str) -> dict[str, Measurement]:
    """`timed` with floor and fraction; all are marked noisy where the measurement `median` is below the floor."""
    reason = below_floor(floor, timed[median])
    marked = {name: _marked(measurement, reason) for name, measurement in timed.items()}
    return {**marked, **reached(floor, marked[median]), **_step_reached(floor, marked.get(TPOT.name))}


def _step_reached(floor: Floor, tpot: Measurement | None) -> dict[str, Measurement]:
    """The fraction of the floor that the time of a generated token reaches; empty where none is timed."""
    if floor.step_ms is None or tpot is None:
        return {}
    low, high = tpot.interval
    conditions = {**tpot.conditions, "bound": floor.bound, "floor_ms": floor.step_ms}
    ends = (floor.step_ms / high, floor.step_ms / low)
    return {STEP_FRACTION.name: STEP_FRACTION.measured(floor.step_ms / tpot.value, ends, tpot.samples, conditions)}


def _marked(measurement: Measurement, reason: str) -> Measurement:
    if not reason:
        return measurement
    noisy = "; ".join(filter(None, (measurement.conditions.get("noisy", ""), reason)))
    conditions: dict[str, Any] = {**measurement.conditions, "noisy": noisy}
    return replace(measurement, conditions=conditions)


@functools.cache
def _bytes_of(precision: str) -> float:
    if precision not in BYTES:
        raise ValueError(f"precision must be one of {', '.join(BYTES)}, got {precision}")
    return BYTES[precision]
