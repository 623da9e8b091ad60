"""The controller: the policy's state, corrected times, the health of the variants, and every switch.

controller = Controller(variants, BacklogFit())
choice = controller.decide(backlog, now_s)     # a variant, a batch size, a reason
controller.served(choice.variant, batch=8, length=32, seconds=0.011)
controller.failed(choice.variant, now_s, "worker died")   # out, and tried again later
controller.switches                            # (time, from, to, reason), newest last
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

from search.serve.policy import Backlog, Choice, Fixed, Policy, PolicyState
from search.serve.variants import ServiceTimes, Variant


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of the serving variant."""

    time_s: float
    source: int | None
    target: int
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """A variant's consecutive failures, and the times until which it is out."""

    failures: int = 0
    failed_until_s: float = -math.inf  # out because it failed
    held_until_s: float = -math.inf  # out because its process starts again
    reason: str = ""
    likely_s: float = math.inf  # when it is expected back, where that is earlier

    @property
    def out_until_s(self) -> float:
        """When it is tried again."""
        return max(self.failed_until_s, self.held_until_s)

    @property
    def back_s(self) -> float:
        """When it is expected back: as its process is, or after repeated failures at `failed_until_s` if later."""
        held_s = min(self.held_until_s, self.likely_s)
        # `Controller.back` ends the time of a first failure too.
        again = self.failures > 1 or self.held_until_s < self.failed_until_s
        return max(held_s, self.failed_until_s) if again else held_s

    def after_failure(self, now_s: float, reason: str, first_s: float = 1.0, most_s: float = 60.0) -> Health:
        """Out for `first_s`, twice as long after each further failure, `most_s` at most."""
        wait = min(first_s * 2.0 ** min(self.failures, 30), most_s)
        return replace(self, failures=self.failures + 1, failed_until_s=now_s + wait, reason=reason)


class UnavailableError(Exception):
    """Every variant is out; `retry_after_s` is when the first of them is tried again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"every variant is out; the first is tried again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


@dataclass
class Controller:
    """The state of decisions: corrected times, health, the serving variant, and the switches so far.

    Not thread-safe: one caller at a time (`search.serve.dispatcher.Dispatcher` holds a lock).
    """

    variants: tuple[Variant, ...]  # fastest first, one or more
    policy: Policy
    times: ServiceTimes = field(default_factory=ServiceTimes)
    state: PolicyState = field(default_factory=PolicyState)
    pinned: int | None = None
    switches: deque[Switch] = field(default_factory=lambda: deque(maxlen=1000))
    switch_count: int = 0
    health: dict[int, Health] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError("variants: must be one or more, got none")

    def available(self, now_s: float) -> tuple[Variant, ...]:
        """The variants that are not out, fastest first."""
        if not self.health:
            return self.variants
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
        """Record an answered batch: its seconds correct the predictions, and the variant counts as healthy."""
        self.times.observe(variant, batch, length, seconds)
        self.healthy(variant.number)

    def healthy(self, number: int) -> None:
        """Forget a variant's failures: it has answered. Where `out` holds it, it stays out until `back`."""
        before = self.health.pop(number, Health())
        if not math.isinf(before.held_until_s):
            self.health[number] = replace(before, failures=0, failed_until_s=-math.inf)

    def failed(self, variant: Variant, now_s: float, reason: str) -> None:
        """Record a failed batch: the variant is out for a while (`Health.after_failure`)."""
        before = self.health.get(variant.number, Health())
        self.health[variant.number] = before.after_failure(now_s, reason)

    def out(self, number: int, until_s: float, reason: str, likely_s: float = math.inf) -> None:
        """Leave a variant out until `back`, at most until `until_s`; clients are told to come at `likely_s`."""
        before = self.health.get(number, Health())
        self.health[number] = replace(before, held_until_s=until_s, reason=reason, likely_s=likely_s)

    def back(self, number: int) -> None:
        """End the time for which `out` has left a variant out.

        One that has failed twice without an answer between stays out for the rest of its time (`Health.after_failure`):
        a process that ends at each call would take the time of one each time that it has started.
        """
        before = self.health.pop(number, Health())
        if before.failures > 1:
            self.health[number] = replace(before, held_until_s=-math.inf, likely_s=math.inf)
        elif before.failures:
            self.health[number] = Health(before.failures)

    def pin(self, number: int | None) -> None:
        """Serve by this variant only; None: by the policy's choice again. Raises KeyError: not loaded."""
        if number is not None and number not in {v.number for v in self.variants}:
            raise KeyError(number)
        self.pinned = number

    def back_at(self, now_s: float) -> float:
        """The time from which a variant can serve: now, or when the first of those that are out is tried again."""
        return now_s if self.available(now_s) else min(health.out_until_s for health in self.health.values())

    def _policy(self) -> Policy:
        return self.policy if self.pinned is None else Fixed(self.pinned)

    def _available(self, now_s: float) -> tuple[Variant, ...]:
        variants = self.available(now_s)
        if not variants:
            raise UnavailableError(max(min(health.back_s for health in self.health.values()) - now_s, 0.0))
        return variants
