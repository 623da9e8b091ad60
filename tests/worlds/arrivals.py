"""When requests come, and how long they are: a trace of a real service, and shapes with Poisson arrivals."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Arrivals:
    """Requests in the order they come."""

    times_s: NDArray[np.float64]  # (N,), ascending from 0
    lengths: NDArray[np.int64]  # (N,) tokens

    def __len__(self) -> int:
        return len(self.times_s)


#: Rates over time as multiples of a capacity, by the share of the time that has passed.
SHAPES: dict[str, Callable[[float], float]] = {
    "steady": lambda share: 2.5,
    "ramp": lambda share: 0.2 + 2.8 * share,
    "bursts": lambda share: 3.0 if (share * 10) % 1.0 < 0.2 else 0.5,
    "step": lambda share: 0.5 if share < 0.5 else 2.5,
}


def shaped(shape: str, capacity: float, duration_s: float, length: int, seed: int) -> Arrivals:
    """Poisson arrivals whose rate is `SHAPES[shape]` times `capacity` a second; all rows of `length` tokens."""
    random = np.random.default_rng([seed, 4])
    most = capacity * max(SHAPES[shape](share) for share in np.linspace(0, 1, 1001))
    count = random.poisson(most * duration_s)
    times = np.sort(random.uniform(0.0, duration_s, count))
    # Thinning (Lewis & Shedler, 1979): a candidate stays with probability rate / largest rate.
    mask = random.random(count) * most < [capacity * SHAPES[shape](time / duration_s) for time in times]
    return Arrivals(times[mask], np.full(int(mask.sum()), length, dtype=np.int64))


def read_trace(path: Path) -> Arrivals:
    """A trace with columns `seconds` and `context_tokens`, in Parquet or CSV."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        seconds = [float(row["seconds"]) for row in rows]
        tokens = [int(row["context_tokens"]) for row in rows]
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path, columns=["seconds", "context_tokens"])
        seconds, tokens = table["seconds"].to_pylist(), table["context_tokens"].to_pylist()
    order = np.argsort(seconds, kind="stable")
    times = np.asarray(seconds, dtype=np.float64)[order]
    return Arrivals(times - times[0], np.asarray(tokens, dtype=np.int64)[order])


def made_up_trace(seed: int = 0, count: int = 8000) -> Arrivals:
    """A stand-in for a real trace: an hour whose rate wanders and bursts, heavy-tailed lengths."""
    random = np.random.default_rng(seed)
    wander = np.exp(np.cumsum(random.normal(0, 0.05, 3600)) * 0.3)
    bursts = 1.0 + 3.0 * (random.random(3600) < 0.02)
    share = wander * bursts / (wander * bursts).sum()
    times = np.sort(random.choice(3600, count, p=share) + random.random(count))
    return Arrivals(times - times[0], random.lognormal(6.0, 1.2, count).astype(np.int64) + 1)


def scaled(trace: Arrivals, rate: float, length: int, seed: int, count: int | None = None) -> Arrivals:
    """`count` requests of the trace (all: None), compressed in time until `rate` a second come on average.

    Gaps keep their proportions, so bursts stay as they are. Each seed but 0 begins at another place of the trace, which
    is a circle. Lengths are `length` tokens in the trace's median row and in proportion elsewhere, 4 to 4 * `length`.
    """
    random = np.random.default_rng(seed)
    gaps = np.diff(trace.times_s, append=trace.times_s[-1] + np.median(np.diff(trace.times_s)))
    turned = -int(random.integers(len(trace))) if seed else 0
    gaps, tokens = np.roll(gaps, turned)[:count], np.roll(trace.lengths, turned)[:count]
    times = np.concatenate([[0.0], np.cumsum(gaps)[:-1]])
    lengths = np.clip(np.rint(length * tokens / np.median(trace.lengths)), 4, 4 * length).astype(np.int64)
    return Arrivals(times * (len(gaps) / (rate * gaps.sum())), lengths)
