"""Why a measurement is not to be trusted: somebody else was at work, the machine held back, or times do not agree.

Every finding is a sentence for a person; no finding means that nothing was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from objectives import clock, gpu
from objectives.estimate import Estimate
from objectives.stats import Floats

#: Other processes may take this share of the CPUs' time, ...
OTHERS = 0.05
#: ... the hypervisor this much of it, ...
STEAL = 0.02
#: ... and the container's quota may hold us back for this share of the time.
HELD_BACK = 0.01
#: An estimate's interval may reach this far from it, relative to it.
SPREAD = 0.05
#: Two speeds are told apart from this many calls on, ...
CALLS = 64
#: ... when they differ by this much, ...
APART = 1.05
#: ... each has this share of the calls at least, ...
SHARE = 0.10
#: ... and this much fewer calls lie between them than at the smaller one.
VALLEY = 0.5


class Modes(NamedTuple):
    """Two speeds of one model."""

    fast_ms: float
    slow_ms: float
    slow_share: float  # of the calls


def of_machine(before: clock.Reading, after: clock.Reading) -> list[str]:
    """What the counters say happened beside the processes of interest, between two readings."""
    found = []
    others, steal, held_back = (f(before, after) for f in (clock.busy, clock.stolen, clock.held_back))
    if steal > STEAL:
        found.append(f"the hypervisor gave {steal:.0%} of the CPUs to others")
    if others - steal > OTHERS:
        found.append(f"other processes used {others - steal:.0%} of the CPUs")
    if held_back > HELD_BACK:
        found.append(f"the container's CPU quota held it back for {held_back:.0%} of the time")
    ours = len(after.processes)
    return found + gpu.disturbed(before.gpu, after.gpu, after.at - before.at, ours)


def of_calls(side: str, blocks: Sequence[Floats]) -> list[str]:
    """Whether `side` has two speeds. Not for inputs of several lengths: those take times that differ."""
    modes = two_speeds(np.concatenate(blocks))
    if modes is None:
        return []
    share = f"{modes.slow_share:.0%} of its calls"
    return [f"the {side} has two speeds: {modes.fast_ms:.3g} ms, and {modes.slow_ms:.3g} ms in {share}"]


def of_estimate(what: str, found: Estimate) -> list[str]:
    """Whether `what` ("ratio", or "median" of what was timed alone) is known too loosely.

    No reason to try again: a machine that wanders goes on wandering.
    """
    low, high = found.interval
    spread = max(high / found.value - 1, 1 - low / found.value)
    return [f"the {what} is known to {spread:.0%} only"] if spread > SPREAD else []


def two_speeds(times: Floats) -> Modes | None:
    """The two speeds of a model that has two, from (n,) times of calls; None for fewer than `CALLS`.

    Peaks of a kernel density of log times at the rule-of-thumb width (Silverman, 1986, equation 3.31), which smooths
    two close peaks into one: a long tail or a few slow calls are not a second speed.
    """
    if len(times) < CALLS:
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
        if apart and deep and SHARE <= slow_share <= 1 - SHARE:
            return Modes(float(np.exp(grid[first])), float(np.exp(grid[second])), slow_share)
    return None


def _density(logs: Floats, points: int = 512) -> tuple[Floats, Floats]:
    """(points,) places, and how dense (n,) logs of times lie there, to a factor."""
    # By hand: scipy.stats.gaussian_kde fails where all times are equal, and takes tens of times as long.
    low, high = np.quantile(logs, [0.25, 0.75])
    scale = min(float(logs.std()), float(high - low) / 1.34) or float(logs.std())
    # A clock ticks, and a machine without noise has no width at all: a thousandth is no finer speed.
    width = max(0.9 * scale * len(logs) ** -0.2, 1e-3)
    # The far tail cannot be a speed with a share of its own.
    start, end = np.quantile(logs, [0.01, 0.99]) + np.array([-4, 4]) * width
    counts, edges = np.histogram(logs, bins=points, range=(float(start), float(end)))
    step = (end - start) / points
    reach = min(points // 2 - 1, int(4 * width / step) + 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
    return (edges[:-1] + edges[1:]) / 2, np.convolve(counts, kernel, "same")
