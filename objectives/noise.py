"""Reasons not to trust a measurement: load of other processes, throttling, bimodal times, or a wide interval.

Each reason is a sentence for the user; an empty list means that no interference was detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from objectives import clock, gpu
from objectives.arrays import Floats
from objectives.estimate import Estimate

#: Largest undisturbing share of the CPUs' time that other processes use.
OTHERS_SHARE = 0.05
#: Largest undisturbing share of the CPUs' time that the hypervisor gives to other machines.
STEAL = 0.02
#: Largest undisturbing share of the time in which the container's quota throttles this program.
QUOTA = 0.01
#: Largest acceptable distance of an interval's ends from the estimate, relative to it.
SPREAD = 0.05
#: Fewest calls for a test of bimodality.
FEWEST_CALLS = 64
#: Least ratio of two modes.
APART = 1.05
#: Least share of the calls in each mode.
LEAST_MODE_SHARE = 0.10
#: The density between two modes falls to at most this share of the smaller peak.
VALLEY = 0.5


class Modes(NamedTuple):
    """The two modes of bimodal times."""

    fast_ms: float
    slow_ms: float
    slow_share: float  # of the calls


def of_machine(before: clock.Reading, after: clock.Reading) -> list[str]:
    """Interference between two readings of the machine's counters."""
    reasons = []
    others, steal, held_back = (f(before, after) for f in (clock.busy, clock.stolen, clock.held_back))
    if steal > STEAL:
        reasons.append(f"the hypervisor gave {steal:.0%} of the CPUs to others")
    if others - steal > OTHERS_SHARE:
        reasons.append(f"other processes used {others - steal:.0%} of the CPUs")
    if held_back > QUOTA:
        reasons.append(f"the container's CPU quota held it back for {held_back:.0%} of the time")
    ours = len(after.processes)
    return reasons + gpu.disturbed(before.gpu, after.gpu, after.at - before.at, ours)


def of_calls(side: str, blocks: Sequence[Floats]) -> list[str]:
    """A reason where the times of `side` (ms, by block) are bimodal. Not for inputs of several lengths."""
    modes = two_modes(np.concatenate(blocks))
    if modes is None:
        return []
    share = f"{modes.slow_share:.0%} of its calls"
    return [f"the {side} has bimodal times: {modes.fast_ms:.3g} ms, and {modes.slow_ms:.3g} ms in {share}"]


def of_estimate(what: str, estimate: Estimate) -> list[str]:
    """A reason where the interval of `what` is too wide: "ratio", or "median" of a model timed without a baseline.

    Such a timing is not repeated, because a machine whose speed drifts goes on drifting.
    """
    spread = max(estimate.high / estimate.value - 1, 1 - estimate.low / estimate.value)
    return [f"the {what} is known to {spread:.0%} only"] if spread > SPREAD else []


def two_modes(times: Floats) -> Modes | None:
    """The modes of (n,) times of calls, ms; None where they are not bimodal or fewer than `FEWEST_CALLS`.

    Peaks of a kernel density of log times with the rule-of-thumb bandwidth (Silverman, 1986, equation 3.31), which
    merges close peaks: a long tail or a few outliers are not a second mode.
    """
    if len(times) < FEWEST_CALLS:
        return None
    from scipy.signal import find_peaks

    grid, density = _density(np.log(times))
    peaks, _ = find_peaks(density)
    top = int(peaks[np.argmax(density[peaks])])
    for other in (int(p) for p in peaks[np.argsort(-density[peaks])] if p != top):
        first, second = sorted((top, other))
        valley = first + int(np.argmin(density[first:second]))
        slow_share = float((np.log(times) > grid[valley]).mean())
        apart = grid[second] - grid[first] >= np.log(APART)
        deep = density[valley] <= VALLEY * density[other]
        if apart and deep and LEAST_MODE_SHARE <= slow_share <= 1 - LEAST_MODE_SHARE:
            return Modes(float(np.exp(grid[first])), float(np.exp(grid[second])), slow_share)
    return None


def _density(logs: Floats, points: int = 512) -> tuple[Floats, Floats]:
    """A kernel density of (n,) log times: (points,) grid, and the density there up to a factor."""
    # Not scipy.stats.gaussian_kde: it fails where all times are equal, and takes tens of times as long.
    low, high = np.quantile(logs, [0.25, 0.75])
    scale = min(float(logs.std()), float(high - low) / 1.34) or float(logs.std())
    # At least the resolution of the clock: times without noise have no spread at all.
    width = max(0.9 * scale * len(logs) ** -0.2, 1e-3)
    # The outermost 1 % cannot hold a mode of its own.
    start, end = np.quantile(logs, [0.01, 0.99]) + np.array([-4, 4]) * width
    counts, edges = np.histogram(logs, bins=points, range=(float(start), float(end)))
    step = (end - start) / points
    reach = min(points // 2 - 1, int(4 * width / step) + 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
    return (edges[:-1] + edges[1:]) / 2, np.convolve(counts, kernel, "same")
