"""Expected hypervolume improvement of one set of weights whose latencies are known and whose quality is not.

Costs are logarithms of milliseconds, to be minimised; quality is to be maximised. The front is a staircase: F(u) is the
best quality that a member reaches at cost u or below, and at least that of the reference. A candidate of quality a, run
under several deployments p (runtime and precision) at costs m_p with quality a + d_p, reaches a + D(u), with D(u) the
largest d_p of the deployments with m_p <= u, and adds

    integral over u up to the reference of (a + D(u) - F(u))^+ .

F and D are constant between their steps, and of the normal a only E[(a - c)^+] is needed (Jones, Schonlau & Welch 1998,
equation 15), so the expectation is a finite sum: the closed form of Emmerich, Deutz & Klinkenberg (2011, "Hypervolume-
based expected improvement") with one coordinate known. An error of the predicted costs, common to all deployments of a
candidate and normal, makes every step of D a ramp, whose integral is closed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from objectives.arrays import Floats

#: Smallest standard error of a predicted cost (log ms), so that a ramp has a finite slope.
LEAST_COST_ERROR = 1e-6


@dataclass(frozen=True)
class Staircase:
    """The front as steps over log cost: quality `height[k]` from `start[k]` to `start[k + 1]`, the last to `end`.

    `start[0]` is minus infinity, with the reference's quality.
    """

    start: Floats  # (K,)
    height: Floats  # (K,), not decreasing
    end: float

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> Staircase:
        """The staircase of (log cost, quality) points, dominated or not, up to `reference` (log cost, quality)."""
        end, lowest = reference
        starts, heights = [-np.inf], [lowest]
        for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
            if cost < end and quality > heights[-1]:
                starts.append(cost)
                heights.append(quality)
        return cls(np.array(starts), np.array(heights), end)

    @property
    def area(self) -> float:
        """The hypervolume: the area dominated up to the reference."""
        widths = np.diff(np.append(self.start, self.end))[1:]
        return float((widths * (self.height[1:] - self.height[0])).sum())


def expected_gain(mean: Floats, sd: Floats, threshold: Floats, least: float = -np.inf) -> Floats:
    """E[(a - threshold)^+ if a >= least, else 0] for a ~ N(mean, sd^2); the arrays broadcast."""
    above = np.maximum(threshold, least)
    spread = np.maximum(sd, 1e-12)
    z = (mean - above) / spread
    inside = ndtr(z)
    gain: Floats = (mean - above) * inside + spread * _density(z) + (above - threshold) * inside
    return np.maximum(gain, 0.0)


def expected_improvement(
    mean: Floats,
    sd: Floats,
    costs: Floats,
    costs_sd: Floats,
    offsets: Floats,
    front: Staircase,
    least: float = -np.inf,
) -> Floats:
    """(N,) expected hypervolume improvements, in log ms times the unit of quality.

    Args:
        mean: (N,) means of the candidates' qualities.
        sd: (N,) their standard deviations.
        costs: (N, P) predicted log ms under each deployment; infinite where it cannot run.
        costs_sd: (N,) standard error of the costs, common to all deployments of a candidate.
        offsets: (N, P) quality under a deployment minus that of the candidate.
        front: the members so far.
        least: a quality below this limit adds nothing.

    Cost: O(N K P) for K steps of the front.
    """
    order = np.argsort(costs, axis=1)
    sorted_costs = np.take_along_axis(costs, order, axis=1)  # (N, P)
    sorted_offsets = np.take_along_axis(offsets, order, axis=1)
    reached = np.maximum.accumulate(np.where(np.isfinite(sorted_costs), sorted_offsets, -np.inf), axis=1)
    reached = np.where(np.isfinite(reached), reached, 0.0)  # has no weight: its ramp lies at infinity
    ends = np.append(front.start[1:], front.end)
    error = np.maximum(costs_sd, LEAST_COST_ERROR)[:, None, None]
    covered = _under_ramp(sorted_costs[:, None, :], error, front.start[:, None], ends[:, None])  # (N, K, P)
    later = np.concatenate([covered[:, :, 1:], np.zeros_like(covered[:, :, :1])], axis=2)
    gains = expected_gain(
        mean[:, None, None] + reached[:, None, :], sd[:, None, None], front.height[:, None], least
    )  # fmt: skip
    total: Floats = ((covered - later) * gains).sum((1, 2))
    return np.maximum(total, 0.0)


def _under_ramp(cost: Floats, error: Floats, low: Floats, high: Floats) -> Floats:
    """Integral over u from low to high of P(cost + e <= u), e ~ N(0, error^2)."""
    return error * (_ramp((high - cost) / error) - _ramp((low - cost) / error))


def _ramp(z: Floats) -> Floats:
    """Integral of the normal distribution function up to z: z Phi(z) + phi(z)."""
    finite = np.where(np.isneginf(z), 0.0, z)
    integral: Floats = np.where(np.isneginf(z), 0.0, finite * ndtr(finite) + _density(finite))
    return integral


def _density(z: Floats) -> Floats:
    density: Floats = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return density
