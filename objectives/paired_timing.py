"""The protocol of blocks: candidate and baseline take turns, one stopped while the other is timed."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from objectives import clock, noise, stats
from objectives.arrays import Floats
from objectives.bench import Batch
from objectives.estimate import Estimate
from objectives.stats import Bools

Read = Callable[[Sequence[int]], clock.Reading]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How long to time. Blocks are fixed in advance; the measured times never end a timing early.

    A disturbed pair of processes is timed again, up to `attempts` times in all. The attempt to keep is chosen by the
    CPU time of other processes, never by the measured ratio.
    """

    block_s: float  # of one block of calls on one side
    blocks: int  # a side
    warm_s: float  # at most, a side
    attempts: int = 2
    minimum: int = 1  # calls a block, however slow they are
    timeout_s: float = 300.0  # for one answer of a process; the first call of a compiled model takes long

    def __post_init__(self) -> None:
        if self.blocks < stats.MINIMUM_PAIRS:
            raise ValueError(f"blocks must be {stats.MINIMUM_PAIRS} or more for an interval, got {self.blocks}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more, got {self.attempts}")

    def lasting(self, seconds: float) -> Protocol:
        """The same number of blocks, shortened so that those of both sides take about `seconds`.

        Warm-up is bounded by a quarter of the seconds, so that a short measurement is not mostly warm-up.
        """
        block_s = seconds / (2 * self.blocks)
        return replace(self, block_s=block_s, warm_s=min(self.warm_s, seconds / 4))


#: In the loop: 1.5 s of blocks. Sixteen, because 8 rounds against 8 make a rank-sum interval of 95.0 %.
QUICK = Protocol(block_s=0.046875, blocks=16, warm_s=0.5, attempts=2)


class Side(typing.Protocol):
    """What is timed: a `Remote` that holds a `Bench`."""

    @property
    def pid(self) -> int: ...
    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


#: Opens a process that holds a `Bench`; leaving the context ends it.
Opener = Callable[[], AbstractContextManager[Side]]


@dataclass(frozen=True, slots=True)
class Session:
    """The timing of one pair of processes; milliseconds by block, block i of both sides being of one round."""

    candidate: list[Floats]
    baseline: list[Floats]  # empty without one
    first: Bools  # (blocks,) whether the candidate's came first in the round
    device: list[Floats]  # the candidate's between CUDA events; empty on a CPU
    tokens: list[Floats]  # the candidate's (calls, T), from a call's beginning to each token; empty without tokens
    info: Mapping[str, Any]  # the candidate's `Bench.info`
    warm_up: Mapping[str, Any]
    others: float  # share of the CPUs' time that went elsewhere
    clocks_mhz: tuple[int | None, int | None] | None  # the GPU's at the end, and at most; None without one
    disturbances: tuple[str, ...]  # why not to trust the times; empty for an undisturbed attempt
    retried_for: tuple[str, ...] = ()  # disturbances of the other attempts

    @property
    def ratio(self) -> Estimate:
        """The baseline's time over the candidate's, from the medians of their blocks (`stats.paired_ratio`)."""
        theirs, ours = (np.array([np.median(b) for b in side]) for side in (self.baseline, self.candidate))
        return stats.paired_ratio(theirs, ours, self.first)


def session(
    candidate: Side,
    baseline: Side | None,
    inputs: Sequence[Batch],
    protocol: Protocol,
    generator: np.random.Generator,
    read: Read = clock.read,
) -> Session:
    """Time one pair of processes, repeatedly while it is disturbed, and keep the attempt with the quietest machine."""
    attempt, retried_for = quietest(
        lambda: _attempt(candidate, baseline, inputs, protocol, generator, read), protocol.attempts
    )
    return replace(attempt, retried_for=retried_for)


class Attempt(typing.Protocol):
    """Times with the state of the machine while they were taken."""

    @property
    def others(self) -> float: ...
    @property
    def disturbances(self) -> tuple[str, ...]: ...


A = TypeVar("A", bound=Attempt)


def quietest(measure: Callable[[], A], most: int) -> tuple[A, tuple[str, ...]]:
    """(the attempt to keep, disturbances of the others): measures up to `most` times, until one is undisturbed.

    Where every attempt was disturbed, the one during which other processes used the least CPU time is kept.
    """
    attempts: list[A] = []
    while not attempts or (attempts[-1].disturbances and len(attempts) < most):
        attempts.append(measure())
    best = attempts[-1] if not attempts[-1].disturbances else min(attempts, key=lambda attempt: attempt.others)
    return best, tuple("; ".join(attempt.disturbances) for attempt in attempts if attempt is not best)


def _attempt(
    candidate: Side,
    baseline: Side | None,
    inputs: Sequence[Batch],
    protocol: Protocol,
    generator: np.random.Generator,
    read: Read,
) -> Session:
    sides = [candidate] if baseline is None else [candidate, baseline]
    pids = [side.pid for side in sides]
    blocks: tuple[list[Floats], list[Floats]] = ([], [])
    tokens: list[Floats] = []

    def ask(side: Side, method: str, *arguments: Any) -> Any:
        with awake(side):
            return side.call(method, *arguments, timeout_s=protocol.timeout_s)

    def ask_block(side: Side, method: str) -> Floats:
        return np.asarray(ask(side, method, inputs, protocol.block_s, protocol.minimum), dtype=np.float64)

    with stopped(sides):
        warm_ups = [ask(side, "warm", inputs, protocol.warm_s) for side in sides]
        info = ask(candidate, "info")
        before = read(pids)
        # Each goes first in half of the rounds, chosen at random: the interval of the ratio assumes this.
        second = generator.permutation(protocol.blocks) % len(sides)
        for first in second:
            for index in (first, 1 - first)[: len(sides)]:
                blocks[index].append(ask_block(sides[index], "block"))
                if index == 0 and info.get("generates"):
                    tokens.append(np.asarray(ask(candidate, "token_times"), dtype=np.float64))
        after = read(pids)
        on_device = protocol.blocks if info["device"] == "cuda" else 0
        device = [ask_block(candidate, "device_block") for _ in range(on_device)]
    disturbances = noise.of_machine(before, after)
    if len({tuple((name, array.shape) for name, array in batch.items()) for batch in inputs}) == 1:
        for name, times in zip(("candidate", "baseline"), blocks, strict=True):
            disturbances += noise.of_calls(name, times) if times else []
    clocks = None if after.gpu is None else (after.gpu.clock_mhz, after.gpu.max_clock_mhz)
    others = clock.busy(before, after)
    return Session(*blocks, second == 0, device, tokens, info, warm_ups[0], others, clocks, tuple(disturbances))


@contextlib.contextmanager
def stopped(sides: Sequence[Side]) -> Iterator[None]:
    """All of `sides` are stopped inside the block, except where `awake` resumes one; afterwards all run."""
    try:
        for side in sides:
            side.pause()
        yield
    finally:
        for side in sides:
            side.resume()


@contextlib.contextmanager
def awake(side: Side) -> Iterator[None]:
    """A stopped side runs inside the block."""
    side.resume()
    try:
        yield
    finally:
        side.pause()
