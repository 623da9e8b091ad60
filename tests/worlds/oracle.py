"""What no schedule exceeds that knows all arrivals in advance: an upper bound, not a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from search.serve.batching import Limits
from search.serve.variants import Variant
from tests.worlds.arrivals import Arrivals
from tests.worlds.serving import Machine


def upper_bound(
    arrivals: Arrivals, variants: Sequence[Variant], limits: Limits, machine: Machine
) -> tuple[float, float]:
    """(effective quality, share answered) that no schedule on these workers exceeds, in expectation.

    The schedule is spared what a real one has to bear: calls take their mean time, rows may be interrupted and served
    in parts, part of a row counts in part, and a row's variant is any mixture. A row costs its share of the
    largest batch that it can be in: rows of one batch have all arrived before it begins and are not late when it ends,
    so they arrive within (objective - batch time) of each other.

    Work that rows can get before their deadlines is then a polymatroid and its value is concave in each row's work, so
    the greedy is optimal: the work that is worth most a second goes first. Its value is the sum over all segments of
    the rows' hulls, steepest first, of the slope times the further work that fits once these segments may be used.
    """
    hulls, group = _hulls(arrivals, variants, limits, machine)
    segments = [(q / c, g, i) for g, hull in enumerate(hulls) for i, (c, q) in enumerate(hull)]
    segments.sort(reverse=True)
    caps, value, done = np.zeros(len(hulls)), 0.0, 0.0
    for slope, g, i in segments:
        caps[g] += hulls[g][i][0]
        more = _most_work(arrivals.times_s, caps[group], limits.slo_s, machine.workers)
        value += slope * (more - done)
        done = more
    return value / len(arrivals), _answered(arrivals, hulls, group, limits, machine)


def _answered(
    arrivals: Arrivals,
    hulls: list[list[tuple[float, float]]],
    group: NDArray[np.int64],
    limits: Limits,
    machine: Machine,
) -> float:
    """The share of rows that can be answered by their cheapest variant."""
    cheapest = np.array([hull[0][0] for hull in hulls])
    share, done, caps = 0.0, 0.0, np.zeros(len(hulls))
    for g in np.argsort(cheapest):
        caps[g] = cheapest[g]
        more = _most_work(arrivals.times_s, caps[group], limits.slo_s, machine.workers)
        share, done = share + (more - done) / cheapest[g], more
    return share / len(arrivals)


def _hulls(
    arrivals: Arrivals, variants: Sequence[Variant], limits: Limits, machine: Machine
) -> tuple[list[list[tuple[float, float]]], NDArray[np.int64]]:
    """(each group's segments (seconds, quality), steepest first; each row's group)."""
    padded = np.array([limits.padded(int(length)) for length in arrivals.lengths])
    sizes = [2**k for k in range(limits.max_batch.bit_length()) if 2**k <= limits.max_batch]
    largest = np.zeros((len(arrivals), len(variants)), dtype=np.int64)  # index into `sizes`
    shortest = int(padded.min())
    for v, variant in enumerate(variants):
        for k, size in enumerate(sizes):
            # A batch of more than half of `size` rows is charged as `size` rows: cheaper than it is.
            least = size // 2 + 1
            window = limits.slo_s - machine.mean_s(variant, least, shortest)
            if window >= 0:
                largest[_company(arrivals.times_s, window) >= least, v] = k
    groups, group = np.unique(np.column_stack([padded, largest]), axis=0, return_inverse=True)
    hulls = []
    for length, *indices in groups.tolist():
        costs = [
            (machine.mean_s(variant, sizes[k], length) / sizes[k], variant.quality)
            for variant, k in zip(variants, indices, strict=True)
        ]
        hulls.append(_hull(costs))
    return hulls, group.reshape(-1)


def _company(times_s: NDArray[np.float64], window_s: float) -> NDArray[np.int64]:
    """The most arrivals in any window of `window_s` around each arrival, itself included. times_s: (N,), ascending."""
    ends = np.searchsorted(times_s, times_s + window_s, side="right")
    begun = ends - np.arange(len(times_s))  # in the window that begins with each arrival
    # The best window that contains arrival j begins with one of the arrivals from `first[j]` to j.
    first = np.searchsorted(times_s, times_s - window_s, side="left")
    return _range_max(begun, first)


def _range_max(values: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """max(values[first[j] : j + 1]) for each j, by a sparse table."""
    at = np.arange(len(values))
    levels = [values]
    while 2 ** len(levels) <= len(values):
        half = 2 ** (len(levels) - 1)
        shifted = np.concatenate([np.full(half, np.iinfo(np.int64).min), levels[-1][:-half]])
        levels.append(np.maximum(levels[-1], shifted))  # of the last 2**level values
    span = at - first + 1
    level = np.frexp(span)[1] - 1
    table = np.stack(levels)
    return np.maximum(table[level, at], table[level, first + 2**level - 1])


def _hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Segments (seconds, quality) of the concave hull of quality over cost from (0, 0), steepest first."""
    hull = [(0.0, 0.0)]
    for cost, quality in sorted(points):
        if quality <= hull[-1][1]:
            continue
        while len(hull) > 1:
            (c0, q0), (c1, q1) = hull[-2:]
            if (q1 - q0) / (c1 - c0) > (quality - q1) / (cost - c1):
                break
            hull.pop()
        hull.append((cost, quality))
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(hull)]


def _most_work(times_s: NDArray[np.float64], work_s: NDArray[np.float64], slo_s: float, workers: int) -> float:
    """The most work that gets done of jobs released at `times_s` that end `slo_s` later.

    Deadlines come in the order of arrivals, so first come, first served is earliest deadline first.
    """
    free, total = 0.0, 0.0
    for time, work in zip(times_s.tolist(), (work_s / workers).tolist(), strict=True):
        start = free if free > time else time
        left = time + slo_s - start
        done = work if work < left else max(left, 0.0)
        free = start + done
        total += done
    return total * workers
