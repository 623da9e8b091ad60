"""The variants of a service: loaded members of a front, with their quality, memory and time by batch size.

variants = hull(loadable(from_front(json.loads(path.read_text())), memory_mb=2000), batch=32)
times = ServiceTimes()
times.expected_s(variants[0], batch=8, length=32)     # from the front's own latencies
times.observe(variants[0], batch=8, length=32, seconds=0.011)
times.safe_s(variants[0], batch=8, length=32)         # 99 % of batches take no longer
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from objectives.quality import metric_named
from objectives.workload import Workload, marked, other
from search.front.outcome import LATENCY, LOSS

#: Share of the time of a call that does not depend on its rows, assumed where one batch size was measured.
FIXED_SHARE = 0.3
#: p99 over p50 of a call's time, assumed where the front has no p99.
TAIL_RATIO = 1.6
#: Tokens of a row where the record does not say how long the timed rows were.
UNKNOWN_LENGTH = 32
#: A batch is large enough where every larger one saves less than this share of its seconds per row. A larger one only
#: makes requests wait for each other, and its time varies more.
BATCH_GAIN = 0.05
#: Standard deviations from the mean to the 99th percentile of a normal distribution.
P99_DEVIATIONS = 2.326
TAIL_LATENCY = "latency_p99_ms"


@dataclass(frozen=True, slots=True)
class Variant:
    """A member of a front as the controller sees it: quality, service times and memory."""

    number: int  # the trial's number
    quality: float  # the metric's value
    loss: float  # points of the metric below the uncompressed model
    points: tuple[tuple[int, float], ...]  # (batch size, median seconds of a call) at `length`, ascending
    length: int  # tokens a row in `points`
    tail: float = TAIL_RATIO  # p99 over p50 of a call's time
    memory_mb: float = 0.0

    def __hash__(self) -> int:
        # Each decision looks variants up in caches, and the hash of all fields takes longer than the decision itself.
        return hash(self.number)

    def seconds(self, batch: int, length: int | None = None) -> float:
        """Predicted median time of a call on `batch` rows padded to `length` tokens (default: as measured).

        Linear between and beyond measured batch sizes; the time of a row is proportional to its tokens.
        """
        rows = batch * (self.length if length is None else length) / self.length
        fixed, slope = self._line(rows)
        return fixed + slope * rows

    def row_s(self, batch: int) -> float:
        """Seconds per row in the most efficient batch of up to `batch` rows."""
        return min(self.seconds(size) / size for size in range(1, batch + 1))

    def _line(self, rows: float) -> tuple[float, float]:
        """(seconds at no row, seconds a row) of the line that holds around `rows`."""
        if len(self.points) == 1:
            batch, seconds = self.points[0]
            fixed = FIXED_SHARE * seconds
            return fixed, (seconds - fixed) / batch
        at = next((i for i in range(1, len(self.points)) if rows <= self.points[i][0]), len(self.points) - 1)
        (low, faster), (high, slower) = self.points[at - 1 : at + 1]
        # Noise may measure a larger batch as faster; a further row is never free.
        slope = max((slower - faster) / (high - low), 1e-3 * slower / high)
        return max(faster - slope * low, 0.0), slope


@lru_cache(maxsize=4096)
def useful_batch(variant: Variant, length: int, most: int) -> int:
    """The smallest batch, 1 to `most` rows padded to `length` tokens, that a larger one hardly improves on.

    Its predicted seconds per row are within `BATCH_GAIN` of the lowest: 1 where batching gains nothing.
    """
    row_s = [variant.seconds(size, length) / size for size in range(1, most + 1)]
    enough = min(row_s) * (1.0 + BATCH_GAIN)
    return next(size for size, seconds in enumerate(row_s, 1) if seconds <= enough)


def from_front(front: Mapping[str, Any]) -> tuple[Variant, ...]:
    """The variants in the content of a front.json.

    Batch sizes come from latencies under other workloads ("latency_p50_ms/b32") of the same length and device.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, ArithmeticError: `front` is no such content, as after an edit.
    """
    load = front["workload"]
    workload, metric = Workload(int(load["batch"]), load["length"]), str(front["metric"])
    return tuple(
        _variant(
            member["number"],
            {name: float(measurement["value"]) for name, measurement in member["measurements"].items()},
            metric,
            workload,
            _tokens(member["measurements"][LATENCY]["conditions"], workload),
        )
        for member in front["members"]
        if LATENCY in member["measurements"]
    )


def _tokens(conditions: Mapping[str, Any], workload: Workload) -> int:
    """Tokens of a row that was timed: of rows as long as the data's, and of all windows of a question, the mean."""
    if "tokens" in conditions:
        return max(1, round(float(conditions["tokens"]) / workload.batch))
    return workload.length if isinstance(workload.length, int) else UNKNOWN_LENGTH


def _variant(number: int, values: Mapping[str, float], metric: str, workload: Workload, length: int) -> Variant:
    points = {workload.batch: values[LATENCY] / 1e3}
    for name, value in values.items():
        objective, mark = marked(name)
        # A mark that names a device ("cuda-b32") was not timed where the variant runs.
        if objective == LATENCY and mark and mark[0] in "bl":
            load = other(workload, mark)
            if load.length == workload.length:
                points[load.batch] = value / 1e3
    for time_ms in (values[LATENCY], *(1e3 * seconds for seconds in points.values())):
        if not 0 < time_ms < math.inf:
            raise ValueError(f"a time of trial {number} must be finite and above 0 ms, got {time_ms:g}")
    if not all(map(math.isfinite, values.values())):
        name = next(name for name, value in values.items() if not math.isfinite(value))
        raise ValueError(f"{name} of trial {number} must be finite, got {values[name]}")
    tail = values.get(TAIL_LATENCY, TAIL_RATIO * values[LATENCY]) / values[LATENCY]
    resident = values.get("weights_memory_mb", 0.0) + values.get("activations_memory_mb", 0.0)
    return Variant(
        number=number,
        quality=values[metric],
        # A front of other objectives has no paired loss; the order by the metric is the same.
        loss=values.get(LOSS, -100.0 * metric_named(metric).utility(values[metric])),
        points=tuple(sorted(points.items())),
        length=length,
        tail=max(tail, 1.0),
        memory_mb=resident or values.get("peak_memory_mb", values.get("size_mb", 0.0)),
    )


def hull(variants: Iterable[Variant], batch: int) -> tuple[Variant, ...]:
    """The variants worth serving, fastest first: the concave hull of quality over seconds per row in full batches.

    Instead of a variant below the hull, a mix of its two neighbours gives more quality in the same time.
    """
    chain: list[tuple[float, Variant]] = []
    for variant in sorted(variants, key=lambda v: (v.row_s(batch), v.loss)):
        cost = variant.row_s(batch)
        if chain and variant.loss >= chain[-1][1].loss:
            continue  # slower and no better
        while len(chain) > 1 and _slope(chain[-2], chain[-1]) <= _slope(chain[-1], (cost, variant)):
            chain.pop()
        chain.append((cost, variant))
    return tuple(variant for _, variant in chain)


def _slope(fast: tuple[float, Variant], slow: tuple[float, Variant]) -> float:
    """Points of quality a second gained by going from the faster variant to the slower one."""
    return (fast[1].loss - slow[1].loss) / max(slow[0] - fast[0], 1e-12)


def loadable(
    variants: Sequence[Variant], memory_mb: float = math.inf, count: int = 8, batch: int = 32
) -> tuple[Variant, ...]:
    """The variants to load within `memory_mb` MB and `count`, fastest first.

    Of those that fit, the fastest is chosen first, then the most accurate, then repeatedly the one whose log time is
    farthest from those chosen. Variants on the hull (`hull`) come before the others. Where none fits the fastest is
    chosen alone.
    """
    fitting = [v for v in variants if v.memory_mb <= memory_mb] or list(variants)
    on_hull = hull(fitting, batch)
    chosen: list[Variant] = list(on_hull[:1])
    left = [*on_hull[:0:-1], *(v for v in fitting if v not in on_hull)]

    def far(variant: Variant) -> tuple[bool, float]:
        gaps = [abs(math.log(variant.row_s(batch) / c.row_s(batch))) for c in chosen]
        return variant in on_hull, min(gaps)

    while left and len(chosen) < count:
        # `left` begins with the most accurate one, so that it is the second to be chosen.
        best = left[0] if len(chosen) == 1 else max(left, key=far)
        left.remove(best)
        if sum(v.memory_mb for v in chosen) + best.memory_mb <= memory_mb:
            chosen.append(best)
    return tuple(sorted(chosen, key=lambda v: v.row_s(batch)))


def embedding_variant(variants: Sequence[Variant], memory_mb: float = math.inf) -> Variant:
    """The most accurate variant within `memory_mb` MB; where none fits, of those that take the least."""
    least = min(v.memory_mb for v in variants)
    return min((v for v in variants if v.memory_mb <= max(memory_mb, least)), key=lambda v: v.loss)


@dataclass
class ServiceTimes:
    """Predicted service times, corrected by the measured ratio of actual to predicted ones.

    The logarithm of a time is the prediction's plus three corrections: of the machine (all variants), of the variant,
    and of its batches of this size (powers of two). Each batch moves all three by a share of its error (LMS), so the
    predictions of variants that are not serving follow a slower machine too. The variance is a moving average of
    squared errors.
    """

    #: Shares of an error, by correction: machine, variant, batch size.
    rates: tuple[float, float, float] = (0.05, 0.02, 0.05)
    #: Largest error of one batch that is learnt from, so that a stall does not count as a new speed.
    clip: float = math.log(3.0)
    machine: float = 0.0
    by_variant: dict[int, float] = field(default_factory=dict)
    by_size: dict[tuple[int, int], float] = field(default_factory=dict)
    variance: dict[int, float] = field(default_factory=dict)

    def expected_s(self, variant: Variant, batch: int, length: int) -> float:
        """The expected median seconds of a batch."""
        return variant.seconds(batch, length) * math.exp(self._correction(variant, batch))

    def safe_s(self, variant: Variant, batch: int, length: int) -> float:
        """The expected seconds of a batch at the 99th percentile."""
        return self.expected_s(variant, batch, length) * self.tail(variant)

    def tail(self, variant: Variant) -> float:
        """p99 over p50 of a call's time."""
        return math.exp(P99_DEVIATIONS * math.sqrt(self._variance(variant)))

    def largest_batch(self, variant: Variant, length: int, within_s: float, most: int) -> int:
        """The largest batch, 1 to `most`, that is done within `within_s` at the 99th percentile; 1 where none is."""
        sizes = range(1, most + 1)
        return max(bisect_right(sizes, within_s, key=lambda size: self.safe_s(variant, size, length)), 1)

    def observe(self, variant: Variant, batch: int, length: int, seconds: float) -> None:
        """Correct the predictions by a batch that took `seconds`."""
        error = math.log(max(seconds, 1e-9) / self.expected_s(variant, batch, length))
        error = min(max(error, -self.clip), self.clip)
        size = (variant.number, batch.bit_length())
        self.machine += self.rates[0] * error
        self.by_variant[variant.number] = self.by_variant.get(variant.number, 0.0) + self.rates[1] * error
        self.by_size[size] = self.by_size.get(size, 0.0) + self.rates[2] * error
        self.variance[variant.number] = 0.98 * self._variance(variant) + 0.02 * error * error

    def fade(self, share: float = 0.2) -> None:
        """Forget a share of each correction that lengthens the expected times."""
        keep = 1.0 - share
        self.machine = min(self.machine, keep * self.machine)
        self.by_variant = {key: min(value, keep * value) for key, value in self.by_variant.items()}
        self.by_size = {key: min(value, keep * value) for key, value in self.by_size.items()}

    def _correction(self, variant: Variant, batch: int) -> float:
        size = (variant.number, batch.bit_length())
        return self.machine + self.by_variant.get(variant.number, 0.0) + self.by_size.get(size, 0.0)

    def _variance(self, variant: Variant) -> float:
        return self.variance.get(variant.number, (math.log(variant.tail) / P99_DEVIATIONS) ** 2)
