"""A discrete-event simulation of the service: arrivals, the program's own queue and controller, variants with noise."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from search.serve.batching import Batcher, Limits, RequestBatch
from search.serve.bucket import Request
from search.serve.controller import Controller
from search.serve.policy import Policy
from search.serve.variants import P99_DEVIATIONS, Variant
from tests.worlds.arrivals import Arrivals


@dataclass(frozen=True)
class Machine:
    """How long calls really take. The controller is not told: it knows the front's times only.

    A call takes the variant's predicted time, times a factor of the machine and one of the variant, plus `dispatch_s`;
    with log-normal noise of the variant's own tail, and sometimes a stall.
    """

    seed: int = 0
    speed: tuple[float, float] = (0.9, 1.3)  # range of the machine's factor
    variant_sd: float = 0.05  # of the logarithm of each variant's factor
    dispatch_s: float = 0.0002
    stall: tuple[float, float] = (0.001, 3.0)  # (share of calls, factor)
    workers: int = 1

    def factor(self, variant: Variant) -> float:
        random = np.random.default_rng([self.seed, 1])
        machine = random.uniform(*self.speed)
        own = np.random.default_rng([self.seed, 2, variant.number]).normal(0.0, self.variant_sd)
        return float(machine * math.exp(own))

    def mean_s(self, variant: Variant, batch: int, length: int) -> float:
        """Mean time of a call."""
        spread = math.log(variant.tail) / P99_DEVIATIONS
        stalls = 1.0 + self.stall[0] * (self.stall[1] - 1.0)
        call = self.dispatch_s + self.factor(variant) * variant.seconds(batch, length)
        return call * math.exp(spread**2 / 2) * stalls

    def row_s(self, variant: Variant, max_batch: int, length: int) -> float:
        """Seconds a row in the best batch."""
        return min(self.mean_s(variant, size, length) / size for size in range(1, max_batch + 1))

    def capacity(self, variant: Variant, max_batch: int, lengths: Sequence[int]) -> float:
        """Rows a second that the machine serves by `variant` in full batches of rows of these padded lengths."""
        times = {length: self.row_s(variant, max_batch, length) for length in set(lengths)}
        return self.workers / float(np.mean([times[length] for length in lengths]))


@dataclass
class Result:
    """What came of all requests that were offered."""

    offered: int
    in_time: int = 0
    quality: float = 0.0  # summed over the requests answered in time
    late: int = 0
    refused: int = 0
    dropped: int = 0
    switches: int = 0
    latencies_s: list[float] = field(default_factory=list)
    most_waiting: int = 0
    batches: list[tuple[float, int, int]] = field(default_factory=list)  # (time, variant, size)

    @property
    def attainment(self) -> float:
        """Share of the offered requests that were answered in time."""
        return self.in_time / self.offered

    @property
    def effective_quality(self) -> float:
        """Mean quality of the offered requests; one that is refused, dropped or late counts as wrong."""
        return self.quality / self.offered


def simulate(
    arrivals: Arrivals, variants: tuple[Variant, ...], policy: Policy, limits: Limits, machine: Machine
) -> Result:
    """Serve all arrivals; every request has the objective as its deadline."""
    batcher = Batcher(Controller(variants, policy), limits, machine.workers)
    random = np.random.default_rng([machine.seed, 3])
    factors = {variant.number: machine.factor(variant) for variant in variants}
    result, running, ties = Result(len(arrivals)), list[tuple[float, int, RequestBatch]](), count()
    coming, now = 0, 0.0
    times = arrivals.times_s.tolist()
    lengths = arrivals.lengths.tolist()
    while coming < len(times) or running or batcher.waiting:
        arrives = times[coming] if coming < len(times) else math.inf
        done = running[0][0] if running else math.inf
        wakes = max(batcher.wake_at(now), now + 1e-9) if len(running) < machine.workers else math.inf
        now = min(arrives, done, wakes)
        if now == arrives:
            batcher.offer(Request(lengths[coming], now, now + limits.slo_s), now)
            coming += 1
        elif now == done:
            batch = heapq.heappop(running)[2]
            batcher.finish(batch, now)
            _count(result, batch, now)
        while len(running) < machine.workers and (begun := batcher.next_batch(now)) is not None:
            variant, size = begun.variant, len(begun.requests)
            assert all(request.deadline_s > now for request in begun.requests)
            noise = math.exp(random.normal() * math.log(variant.tail) / P99_DEVIATIONS)
            stall = machine.stall[1] if random.random() < machine.stall[0] else 1.0
            call = machine.dispatch_s + factors[variant.number] * variant.seconds(size, begun.length)
            heapq.heappush(running, (now + call * noise * stall, next(ties), begun))
            result.batches.append((now, variant.number, size))
        result.most_waiting = max(result.most_waiting, batcher.waiting)
    batcher.expired(now)
    result.refused, result.dropped = batcher.refused, batcher.dropped
    result.switches = batcher.controller.switch_count
    return result


def _count(result: Result, batch: RequestBatch, now_s: float) -> None:
    for request in batch.requests:
        result.latencies_s.append(now_s - request.arrived_s)
        if now_s <= request.deadline_s:
            result.in_time += 1
            result.quality += batch.variant.quality
        else:
            result.late += 1
