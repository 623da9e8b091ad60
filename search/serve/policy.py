"""Which variant serves the next batch, and how many requests: pure functions of what waits and how long it takes.

choice, state = BacklogFit().choose(state, backlog, variants, times, now_s)
choice.variant, choice.batch, choice.reason
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from search.serve.variants import ServiceTimes, Variant

#: The batch in which variants are compared.
HULL_BATCH = 16


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

    def drain_s(self, times: ServiceTimes, serving: Callable[[int], Variant], taken: int = 0) -> float:
        """Expected time in which all workers serve what waits, less `taken` rows of the next batch.

        Rows padded to a length are served by the variant that `serving` gives for it.
        """
        total = 0.0
        for length, count in self.waiting:
            variant = serving(length)
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
    price: float = 0.0  # points of quality that a second of work has to give


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
        return Choice(variant, backlog.largest_fit(times, variant) or 1, "fixed"), replace(state, number=variant.number)

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        return next((v for v in variants if v.number == self.number), variants[0])


@dataclass(frozen=True)
class BacklogFit:
    """The most accurate service that answers everything that waits in time: queue-depth thresholds and slack in one.

    A second of work has a price in points of quality: rows of each padded length go to the most accurate variant whose
    step over the next faster one is worth it, so that short rows, which gain as much for less, keep accurate
    variants longer. A price fits where the next batch is done, at the 99th percentile, before its most urgent request
    is late (the slack of SuperServe's SlackFit, arXiv 2312.16733), and where all that waits drains before the newest
    request is late (the depth thresholds of Compass, arXiv 2603.20821, from the same times). The price rises at
    once to the lowest one that fits, and falls by a step a batch where the lower one fits in `room` of the time left.
    Between the two thresholds nothing changes.
    """

    room: float = 0.5

    def choose(
        self, state: State, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, now_s: float
    ) -> tuple[Choice, State]:
        price = self._price(state.price, backlog, variants, times)
        variant = serving_at(price, variants, backlog.length)
        reason = _why(state, price, backlog, variants)
        choice = Choice(variant, backlog.largest_fit(times, variant) or 1, reason)
        return choice, State(variant.number, price)

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        return variants[0]

    def _price(self, at: float, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes) -> float:
        path = prices(variants, tuple(length for length, _ in backlog.waiting))
        if fits(backlog, at, variants, times):
            lower = path[bisect_left(path, at) - 1] if at > 0 else at
            return lower if fits(backlog, lower, variants, times, self.room) else at
        above = path[bisect_right(path, at) :]
        first = bisect_left(above, True, key=lambda price: fits(backlog, price, variants, times))
        return above[min(first, len(above) - 1)] if above else at


@lru_cache(maxsize=1024)
def worths(variants: tuple[Variant, ...], length: int) -> tuple[float, ...]:
    """Points of quality a second of work that each step from a variant to the next slower one gives, at this length.

    Non-increasing: a step is worth no more than the one before it. Variants lie on their hull but for noise.
    """
    values: list[float] = []
    for fast, slow in pairwise(variants):
        seconds = (slow.seconds(HULL_BATCH, length) - fast.seconds(HULL_BATCH, length)) / HULL_BATCH
        worth = (fast.loss - slow.loss) / max(seconds, 1e-9)
        values.append(min(worth, values[-1]) if values else worth)
    return tuple(values)


@lru_cache(maxsize=1024)
def prices(variants: tuple[Variant, ...], lengths: tuple[int, ...]) -> tuple[float, ...]:
    """The prices at which rows of one of these lengths change their variant, ascending from 0: every step is paid."""
    return tuple(sorted({0.0, *(math.nextafter(worth, math.inf) for n in lengths for worth in worths(variants, n))}))


def serving_at(price: float, variants: tuple[Variant, ...], length: int) -> Variant:
    """The slowest variant all of whose steps are worth the price."""
    return variants[sum(worth >= price for worth in worths(variants, length))]


def fits(backlog: Backlog, price: float, variants: tuple[Variant, ...], times: ServiceTimes, room: float = 1.0) -> bool:
    """Whether the whole backlog is served at `price` within `room` of the time left."""
    variant = serving_at(price, variants, backlog.length)
    size = backlog.largest_fit(times, variant)
    if size == 0:
        return False
    first = times.safe_s(variant, size, backlog.length)
    if first > room * backlog.urgent_s[size - 1]:
        return False
    rest = backlog.drain_s(times, lambda length: serving_at(price, variants, length), taken=size)
    return first + rest <= room * backlog.newest_s


def _why(state: State, price: float, backlog: Backlog, variants: tuple[Variant, ...]) -> str:
    """Why the price is what it has become, for the case that the variant is another than before."""
    if state.number is None:
        return "start"
    if state.number not in {v.number for v in variants}:
        return f"variant {state.number} is out"
    if price > state.price:
        waiting = sum(count for _, count in backlog.waiting)
        return f"{waiting} waiting, {1e3 * backlog.urgent_s[0]:.1f} ms left to the most urgent"
    return "room for a more accurate one" if price < state.price else f"rows of {backlog.length} tokens"
