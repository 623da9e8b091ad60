"""The variant and the size of the next batch, as pure functions of the backlog and of service times.

choice, state = BacklogFit().choose(state, backlog, variants, times, now_s)
choice.variant, choice.batch, choice.reason
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from search.serve.variants import ServiceTimes, Variant, hull, useful_batch

#: The batch size at which variants are compared.
HULL_BATCH = 16


@dataclass(frozen=True, slots=True)
class Backlog:
    """The waiting requests at the moment of a decision."""

    length: int  # tokens that the rows of the next batch are padded to
    urgent_s: tuple[float, ...]  # time left to the most urgent of the first 1, 2, ... requests of the next batch
    last_s: float  # time left to the last of the requests that are due within an objective of the most urgent one
    waiting: tuple[tuple[int, int], ...]  # (padded length, requests) of all that waits, the next batch included
    max_batch: int
    slo_s: float
    workers: int = 1

    def calls(
        self, times: ServiceTimes, serving: Callable[[int], Variant], taken: int = 0
    ) -> Iterator[tuple[int, float]]:
        """(number of calls, expected seconds of each) that serve the waiting rows, without `taken` of the next batch.

        Rows padded to a length are served by the variant that `serving` gives for it.
        """
        for length, count in self.waiting:
            rows = count - taken if length == self.length else count
            if not rows:
                continue
            variant = serving(length)
            full = self.batch_limit(times, variant, length)
            whole, rest = divmod(rows, full)
            if whole:
                yield whole, times.expected_s(variant, full, length)
            if rest:
                yield 1, times.expected_s(variant, rest, length)

    def drain_s(self, times: ServiceTimes, serving: Callable[[int], Variant], taken: int = 0) -> float:
        """Expected seconds in which all workers make these `calls`."""
        return sum(number * seconds for number, seconds in self.calls(times, serving, taken)) / self.workers

    def batch_limit(self, times: ServiceTimes, variant: Variant, length: int) -> int:
        """The most rows of a call: the smallest batch that larger ones hardly improve on (`useful_batch`).

        It takes at most half of the latency objective. A request that arrives as a batch begins waits for that batch,
        and is then served in one that takes as long.
        """
        if useful_batch(variant, length, self.max_batch) == 1:  # of fewer rows too
            return 1
        return useful_batch(variant, length, times.largest_batch(variant, length, self.slo_s / 2, self.max_batch))

    def largest_fit(self, times: ServiceTimes, variant: Variant) -> int:
        """The most requests that `variant` answers together before the most urgent of them is late; may be 0."""
        size = len(self.urgent_s)
        if size > 1:  # one row is always within the limit
            size = min(size, self.batch_limit(times, variant, self.length))
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
class PolicyState:
    """The state of a policy between batches."""

    number: int | None = None  # the variant that serves
    price: float = 0.0  # points of quality that a second of work must gain


class Policy(Protocol):
    """Chooses the variant and the size of each batch."""

    def choose(
        self, state: PolicyState, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, now_s: float
    ) -> tuple[Choice, PolicyState]:
        """The decision and the state after it; `variants` are the available ones, fastest first, at least one."""
        ...

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        """The variant that the policy uses under the highest load; admission control relies on it."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Always one variant: that of `number`, or the fastest while it is out."""

    number: int

    def choose(
        self, state: PolicyState, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, now_s: float
    ) -> tuple[Choice, PolicyState]:
        variant = self.fastest(variants)
        return Choice(variant, backlog.largest_fit(times, variant) or 1, "fixed"), replace(state, number=variant.number)

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        return next((v for v in variants if v.number == self.number), variants[0])


@dataclass(frozen=True)
class BacklogFit:
    """The most accurate variants that still answer the whole backlog in time, by queue depth and slack.

    A second of work has a price in points of quality. Rows of each padded length go to the most accurate variant whose
    gain over the next faster one is worth the price, so that short rows, which gain as much for less work, keep
    accurate variants longer. Variants below the concave hull serve only while one on it is out.

    A price fits where the next batch ends, at the 99th percentile, before its most urgent request is late (the slack of
    SuperServe's SlackFit, arXiv 2312.16733), and the whole backlog drains before its last request is late (the depth
    thresholds of Compass, arXiv 2603.20821, from the same times), both within the share `hold` of the time left: the
    rest is for a burst, which finds a short queue. The price rises at once to the lowest one that fits, and falls by
    one step per batch where the lower one fits into the share `room`. Otherwise it stays.
    """

    hold: float = 0.6
    room: float = 0.3

    def choose(
        self, state: PolicyState, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes, now_s: float
    ) -> tuple[Choice, PolicyState]:
        useful = worth_serving(variants)
        price = self._price(state.price, backlog, useful, times)
        variant = serving_at(price, useful, backlog.length)
        reason = _why(state, price, backlog, variants)
        choice = Choice(variant, backlog.largest_fit(times, variant) or 1, reason)
        return choice, PolicyState(variant.number, price)

    def fastest(self, variants: tuple[Variant, ...]) -> Variant:
        return worth_serving(variants)[0]

    def _price(self, at: float, backlog: Backlog, variants: tuple[Variant, ...], times: ServiceTimes) -> float:
        path = prices(variants, tuple(length for length, _ in backlog.waiting))
        if fits(backlog, at, variants, times, self.hold):
            lower = path[bisect_left(path, at) - 1] if at > 0 else at
            return lower if fits(backlog, lower, variants, times, self.room) else at
        above = path[bisect_right(path, at) :]
        first = bisect_left(above, True, key=lambda price: fits(backlog, price, variants, times, self.hold))
        return above[min(first, len(above) - 1)] if above else at


@lru_cache(maxsize=64)
def worth_serving(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Those on the concave hull. A step to a variant below it gains little, and so hides the steps behind it."""
    return hull(variants, HULL_BATCH)


@lru_cache(maxsize=1024)
def worths(variants: tuple[Variant, ...], length: int) -> tuple[float, ...]:
    """Points of quality per second of work that each step to the next slower variant gains, at this length.

    Non-increasing: a step is worth at most as much as the one before it, because variants lie on a concave hull
    except for noise.
    """
    values: list[float] = []
    for fast, slow in pairwise(variants):
        seconds = (slow.seconds(HULL_BATCH, length) - fast.seconds(HULL_BATCH, length)) / HULL_BATCH
        worth = (fast.loss - slow.loss) / max(seconds, 1e-9)
        values.append(min(worth, values[-1]) if values else worth)
    return tuple(values)


@lru_cache(maxsize=1024)
def prices(variants: tuple[Variant, ...], lengths: tuple[int, ...]) -> tuple[float, ...]:
    """The prices at which rows of one of these lengths change their variant, ascending from 0."""
    return tuple(sorted({0.0, *(math.nextafter(worth, math.inf) for n in lengths for worth in worths(variants, n))}))


def serving_at(price: float, variants: tuple[Variant, ...], length: int) -> Variant:
    """The slowest variant whose steps from the fastest one are all worth the price."""
    return variants[sum(worth >= price for worth in worths(variants, length))]


def fits(backlog: Backlog, price: float, variants: tuple[Variant, ...], times: ServiceTimes, share: float) -> bool:
    """Whether the whole backlog is served at `price` within `share` of the time left.

    Requests with longer time limits than the others add their work to it, but no time.
    """
    variant = serving_at(price, variants, backlog.length)
    size = backlog.largest_fit(times, variant)
    if size == 0:
        return False
    first = times.safe_s(variant, size, backlog.length)
    if first > share * backlog.urgent_s[size - 1]:
        return False
    rest = backlog.drain_s(times, lambda length: serving_at(price, variants, length), taken=size)
    return first + rest <= share * backlog.last_s


def _why(state: PolicyState, price: float, backlog: Backlog, variants: tuple[Variant, ...]) -> str:
    """The reason for a change of the price or the variant, in words."""
    if state.number is None:
        return "start"
    if state.number not in {v.number for v in variants}:
        return f"variant {state.number} is out"
    if price > state.price:
        waiting = sum(count for _, count in backlog.waiting)
        return f"{waiting} waiting, {1e3 * backlog.urgent_s[0]:.1f} ms left to the most urgent"
    return "room for a more accurate one" if price < state.price else f"rows of {backlog.length} tokens"
