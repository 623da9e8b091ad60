"""Which variant serves the next batch, and how many requests: policies, and the controller that holds their state.

    controller = Controller(variants, BacklogFit())
    choice = controller.decide(backlog, now_s)     # a variant, a batch size, a reason
    controller.served(choice, length=32, seconds=0.011)
    controller.failed(choice.variant, now_s, "worker died")   # out, and tried again later
    controller.switches                            # (time, from, to, reason), newest last

A policy is a pure function of what it is shown: its own state, the waiting requests, the variants and their times.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from search.serve.variants import ServiceTimes, Variant


@dataclass(frozen=True, slots=True)
class Backlog:
    """The waiting requests at the moment of a decision."""

    length: int  # tokens that the rows of the next batch are padded to
    urgent_s: tuple[float, ...]  # time left to the most urgent of the first 1, 2, ... requests of the next batch
    newest_s: float  # time left to the request that arrived last
    waiting: tuple[tuple[int, int], ...]  # (padded length, requests) of all that waits, the next batch included
    max_batch: int
    slo_s: float
    workers: int = 1

    def drain_s(self, times: ServiceTimes, variant: Variant, taken: int = 0) -> float:
        """Expected time in which all workers serve what waits by `variant`, less `taken` rows of the next batch."""
        total = 0.0
        for length, count in self.waiting:
            full = self.batch_limit(times, variant, length)
            whole, rest = divmod(count - taken if length == self.length else count, full)
            total += whole * times.expected_s(variant, full, length) if whole else 0.0
            total += times.expected_s(variant, rest, length) if rest else 0.0
        return total / self.workers

    def batch_limit(self, times: ServiceTimes, variant: Variant, length: int) -> int:
        """The most rows in a batch: what half of the objective is enough for.

        A request may arrive as a batch begins, and then travel in one as long.
        """
        return times.largest_batch(variant, length, self.slo_s / 2, self.max_batch)

    def largest_fit(self, times: ServiceTimes, variant: Variant) -> int:
        """The most requests that `variant` answers together before the most urgent of them is late; may be 0."""
        size = min(len(self.urgent_s), self.batch_limit(times, variant, self.length))
        while size and times.safe_s(variant, size, self.length) > self.urgent_s[size - 1]:
            size -= 1
        return size


@dataclass(frozen=True, slots=True)
class Choice:
    """The decision for one batch."""

    variant: Variant
    batch: int
    reason: str


@dataclass(frozen=True, slots=True)
class State:
    """What a policy remembers from one batch to the next."""

    number: int | None = None  # the variant that serves
    since_s: float | None = None  # for policies that wait


class Policy(Protocol):
    """Chooses the variant and the size of each batch."""

    def choose(
        self, state: State, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, now_s: float
    ) -> tuple[Choice, State]:
        """The decision and the state after it; `variants` are those that can serve, fastest first, one or more."""
        ...

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        """The variant by which the policy serves under the highest load: admission relies on it."""
        ...


@dataclass(frozen=True)
class Fixed:
    """One variant always: the one of that number, or the nearest in speed while it is out."""

    number: int

    def choose(
        self, state: State, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, now_s: float
    ) -> tuple[Choice, State]:
        variant = self.fastest(variants)
        return Choice(variant, backlog.largest_fit(times, variant) or 1, "fixed"), State(variant.number)

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        return next((v for v in variants if v.number == self.number), variants[0])


@dataclass(frozen=True)
class BacklogFit:
    """The most accurate variant that answers everything that waits in time: queue-depth thresholds and slack in one.

    A variant fits where the next batch is done, at the 99th percentile, before its most urgent request is late (the
    slack of SuperServe's SlackFit, arXiv 2312.16733), and where all that waits drains before the newest request is late
    (the depth thresholds of Compass, arXiv 2603.20821, from the same times). A faster variant is taken at once; a more
    accurate one where it fits in `room` of the time left, one step a batch. Between the two thresholds nothing changes.
    """

    room: float = 0.5

    def choose(
        self, state: State, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, now_s: float
    ) -> tuple[Choice, State]:
        fitting = self._most_accurate(backlog, variants, times, 1.0)
        at = next((i for i, v in enumerate(variants) if v.number == state.number), None)
        if at is None or fitting < at:
            reason = _why(state, backlog, None if at is None else variants[at], times)
            return self._serve(variants[fitting], backlog, times, reason), State(variants[fitting].number)
        better = self._most_accurate(backlog, variants, times, self.room) if fitting > at else at
        if better <= at:
            return self._serve(variants[at], backlog, times, "stay"), state
        chosen = variants[at + 1]
        return self._serve(chosen, backlog, times, "room for a more accurate one"), State(chosen.number)

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        return variants[0]

    def _most_accurate(self, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, room: float) -> int:
        """Index of the slowest variant that fits in `room` of the time left; 0 where none does."""
        for i in range(len(variants) - 1, 0, -1):
            if fits(backlog, variants[i], times, room):
                return i
        return 0

    def _serve(self, variant: Variant, backlog: Backlog, times: ServiceTimes, reason: str) -> Choice:
        return Choice(variant, backlog.largest_fit(times, variant) or 1, reason)


def fits(backlog: Backlog, variant: Variant, times: ServiceTimes, room: float = 1.0) -> bool:
    """Whether `variant` serves the whole backlog within `room` of the time left."""
    size = backlog.largest_fit(times, variant)
    if size == 0:
        return False
    first = times.safe_s(variant, size, backlog.length)
    if first > room * backlog.urgent_s[size - 1]:
        return False
    return first + backlog.drain_s(times, variant, taken=size) <= room * backlog.newest_s


def _why(state: State, backlog: Backlog, variant: Variant | None, times: ServiceTimes) -> str:
    """Why another variant than `variant` is needed; None: it is out."""
    if state.number is None:
        return "start"
    if variant is None:
        return f"variant {state.number} is out"
    if backlog.largest_fit(times, variant) == 0:
        return f"{1e3 * backlog.urgent_s[0]:.1f} ms are left to the most urgent request"
    return f"{sum(count for _, count in backlog.waiting)} requests wait"


@dataclass(frozen=True, slots=True)
class Switch:
    """The service went from one variant to another."""

    time_s: float
    source: int | None
    target: int
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """A variant's failures in a row, and until when it is out."""

    failures: int = 0
    out_until_s: float = -math.inf
    reason: str = ""

    def after_failure(self, now_s: float, reason: str, first_s: float = 1.0, most_s: float = 60.0) -> Health:
        """Out for `first_s`, twice as long after each further failure, `most_s` at most."""
        wait = min(first_s * 2.0 ** min(self.failures, 30), most_s)
        return Health(self.failures + 1, now_s + wait, reason)


class UnavailableError(Exception):
    """Every variant is out; `retry_after_s` is when the first of them is tried again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"every variant is out; the first is tried again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


@dataclass
class Controller:
    """The state of the decisions: times as corrected, health, what serves, and the switches so far.

    Not thread-safe: one caller at a time (`search.serve.batching.Dispatcher` holds a lock).
    """

    variants: tuple[Variant, ...]  # fastest first, one or more
    policy: Policy
    times: ServiceTimes = field(default_factory=ServiceTimes)
    state: State = field(default_factory=State)
    pinned: int | None = None
    switches: deque[Switch] = field(default_factory=lambda: deque(maxlen=1000))
    switch_count: int = 0
    health: dict[int, Health] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError("variants: must be one or more, got none")

    def available(self, now_s: float) -> tuple[Variant, ...]:
        """The variants that are not out, fastest first."""
        return tuple(v for v in self.variants if self.health.get(v.number, Health()).out_until_s <= now_s)

    def fastest(self, now_s: float) -> Variant:
        """The variant that serves under the highest load. Raises UnavailableError."""
        return self._policy().fastest(self._available(now_s))

    def decide(self, backlog: Backlog, now_s: float) -> Choice:
        """The variant and the size of the next batch. Raises UnavailableError."""
        choice, state = self._policy().choose(self.state, backlog, self._available(now_s), self.times, now_s)
        if choice.variant.number != self.state.number:
            reason = choice.reason if self.pinned is None else "pinned"
            if self.state.number is not None:
                self.switch_count += 1
            self.switches.append(Switch(now_s, self.state.number, choice.variant.number, reason))
        self.state = state
        return choice

    def served(self, variant: Variant, batch: int, length: int, seconds: float) -> None:
        """A batch was answered: its time corrects the predictions, and the variant is healthy."""
        self.times.observe(variant, batch, length, seconds)
        self.health.pop(variant.number, None)

    def failed(self, variant: Variant, now_s: float, reason: str) -> None:
        """A batch failed: the variant is out for a while."""
        self.health[variant.number] = self.health.get(variant.number, Health()).after_failure(now_s, reason)

    def pin(self, number: int | None) -> None:
        """Serve by this variant only (by the policy's choice again: None). Raises KeyError: not loaded."""
        if number is not None and number not in {v.number for v in self.variants}:
            raise KeyError(number)
        self.pinned = number

    def back_at(self, now_s: float) -> float:
        """When a variant is there to serve: now, or when the first of those that are out is tried again."""
        return now_s if self.available(now_s) else min(health.out_until_s for health in self.health.values())

    def _policy(self) -> Policy:
        return self.policy if self.pinned is None else Fixed(self.pinned)

    def _available(self, now_s: float) -> tuple[Variant, ...]:
        found = self.available(now_s)
        if not found:
            raise UnavailableError(self.back_at(now_s) - now_s)
        return found
