"""Policies that the service's own is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from search.serve.policy import Backlog, Choice, PolicyState
from search.serve.variants import ServiceTimes, Variant


@dataclass(frozen=True, slots=True)
class Held(PolicyState):
    """Since when few enough requests have waited for a more accurate variant."""

    since_s: float | None = None


@dataclass(frozen=True)
class Thresholds:
    """Queue-depth thresholds (Compass, arXiv 2603.20821).

    A variant serves while no more requests wait than it serves before the newest is late: (objective - its p99) over
    its time a row. Above that the next faster one serves at once; a more accurate one again once at most `back` of its
    threshold have waited for `hold_s`.
    """

    slo_s: float
    back: float = 0.5
    hold_s: float = 0.1

    def threshold(self, variant: Variant, backlog: Backlog, times: ServiceTimes) -> float:
        full = backlog.batch_limit(times, variant, backlog.length)
        row_s = times.expected_s(variant, full, backlog.length) / full
        return (self.slo_s - times.safe_s(variant, 1, backlog.length)) / row_s

    def choose(
        self, state: PolicyState, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, now_s: float
    ) -> tuple[Choice, PolicyState]:
        waiting = sum(count for _, count in backlog.waiting)
        at = next((i for i, v in enumerate(variants) if v.number == state.number), len(variants) - 1)
        calm: float | None = None
        while at and waiting > self.threshold(variants[at], backlog, times):
            at -= 1
        if at + 1 < len(variants) and waiting <= self.back * self.threshold(variants[at + 1], backlog, times):
            calm = (state.since_s if isinstance(state, Held) else None) or now_s
            if now_s - calm >= self.hold_s:
                at, calm = at + 1, now_s
        choice = Choice(variants[at], backlog.largest_fit(times, variants[at]) or 1, f"{waiting} requests wait")
        return choice, Held(variants[at].number, since_s=calm)

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        return variants[0]


@dataclass(frozen=True)
class SlackFit:
    """The highest bucket of latency that fits the slack, and in it the largest batch (SuperServe, arXiv 2312.16733).

    All pairs of variant and batch size lie in `buckets` equal ranges of predicted time. The most urgent request's
    slack chooses the range; in it the largest batch wins, then the most accurate variant.
    """

    buckets: int = 20

    def choose(
        self, state: PolicyState, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, now_s: float
    ) -> tuple[Choice, PolicyState]:
        sizes = sorted({min(2**i, len(backlog.urgent_s)) for i in range(12)})
        tuples = [(times.safe_s(v, b, backlog.length), b, v.quality, v) for v in variants for b in sizes]
        low, high = min(t[0] for t in tuples), max(t[0] for t in tuples)
        width = (high - low) / self.buckets or 1.0
        fitting = [t for t in tuples if t[0] <= backlog.urgent_s[t[1] - 1]] or [min(tuples, key=lambda t: t[0])]
        top = max(int((t[0] - low) / width) for t in fitting)
        _, batch, _, variant = max((t for t in fitting if int((t[0] - low) / width) == top), key=lambda t: t[1:3])
        return Choice(variant, batch, "slack"), PolicyState(variant.number)

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        return variants[0]
