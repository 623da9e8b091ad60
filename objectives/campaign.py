"""The final campaign: all models take turns, block by block, over several sets of fresh processes.

All pairs of models have paired block times on the same machine at the same time, so clock times can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from objectives import clock, noise, paired_timing, stats
from objectives.arrays import Floats
from objectives.bench import LONG_CALL_S, Batch
from objectives.campaign_processes import Failures, asker, opened
from objectives.estimate import Estimate
from objectives.estimate import ratio as quotient
from objectives.paired_timing import Opener, Read, Side

#: The fewest sets of processes for an interval over them.
FEWEST_SETS = 3
#: Sets of processes of a campaign for which no number is given.
SETS = FEWEST_SETS
#: Rounds of a set: as many as an interval within one set needs.
ROUNDS = stats.MINIMUM_PAIRS
#: The warm-up has at least this many calls, however slow they are.
WARM_CALLS = 3
#: Device time is measured for this share of a block.
DEVICE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class CampaignPlan:
    """How long to time. Sets and rounds are fixed in advance and do not depend on the times.

    A disturbed set is timed again in the same processes, up to `attempts` times in all. The attempt during which other
    processes used the least CPU time is kept.
    """

    block_s: float  # of one block of calls of one model
    warm_s: float  # at most, of one model in one process
    rounds: int = ROUNDS  # in a set; each has one block of every model
    sets: int = SETS  # of fresh processes
    attempts: int = 2
    minimum: int = 1  # calls a block, however slow they are
    timeout_s: float = 300.0  # for one answer of a process; the first call of a compiled model takes long

    def __post_init__(self) -> None:
        if self.rounds < stats.MINIMUM_PAIRS:
            raise ValueError(f"rounds must be {stats.MINIMUM_PAIRS} or more, got {self.rounds}")
        if self.sets != 1 and self.sets < FEWEST_SETS:
            raise ValueError(f"sets must be 1, or {FEWEST_SETS} or more for an interval over them, got {self.sets}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more, got {self.attempts}")

    @classmethod
    def lasting(cls, seconds: float, at_least_s: float = 0.0, sets: int | None = None) -> CampaignPlan:
        """The plan with `seconds` of blocks per model over all sets, and at least `at_least_s` seconds in each set.

        Without a number of sets there are `SETS`.
        """
        count = SETS if sets is None else sets
        in_a_set = max(seconds / count, at_least_s)
        return cls(block_s=in_a_set / ROUNDS, warm_s=min(1.0, in_a_set / 2), sets=count)

    def model_s(self, call_s: float = 0.0, device: str = "cpu") -> float:
        """Upper bound, in seconds, on the warm-up and the blocks of one model in all sets, without repeated attempts.

        `call_s` is the time of one call. A block has at least `minimum` calls, after an untimed one where calls take
        `LONG_CALL_S` or less. On "cuda" a block that is timed on the device follows each.
        """
        uncounted_s = call_s if call_s <= LONG_CALL_S else 0.0
        block_s = max(self.block_s, self.minimum * call_s) + uncounted_s
        if device == "cuda":
            block_s += max(DEVICE_SHARE * self.block_s, self.minimum * call_s) + call_s
        return self.sets * (self.rounds * block_s + max(self.warm_s, WARM_CALLS * call_s))


@dataclass(frozen=True, slots=True)
class Set:
    """The timing of one set of processes: milliseconds by model and round, and the state of the machine."""

    blocks: Mapping[int, Sequence[Floats]]
    device: Mapping[int, Sequence[Floats]]  # between CUDA events; empty on a CPU
    tokens: Mapping[int, Sequence[Floats]]  # (calls, T), from a call's beginning to each token; of what generates them
    info: Mapping[int, Mapping[str, Any]]  # `Bench.info`
    warm_up: Mapping[int, Mapping[str, Any]]
    others: float  # share of the CPUs' time that went elsewhere
    clocks_mhz: tuple[int | None, int | None] | None  # the GPU's at the end, and its maximum; None without one
    disturbances: tuple[str, ...]  # interference, in words (`noise`); empty for an undisturbed set
    retried_for: tuple[str, ...] = ()  # disturbances of the other attempts

    def medians(self, key: int) -> Floats:
        """(rounds,) the median of each block."""
        return np.array([np.median(block) for block in self.blocks[key]])


@dataclass(frozen=True, slots=True)
class Campaign:
    """The timings of all models, by key. The `anchors` are in every group; the first anchor is the baseline."""

    groups: tuple[tuple[Set, ...], ...]  # the sets of each group of models that were open together
    anchors: tuple[int, ...]
    plan: CampaignPlan
    failed: Mapping[int, str]  # why the process of a model failed, by key

    @property
    def keys(self) -> tuple[int, ...]:
        """All models that were timed to the end."""
        keys = dict.fromkeys(key for sets in self.groups for one in sets for key in one.blocks)
        return tuple(key for key in keys if key not in self.failed)

    def sets_of(self, key: int) -> tuple[Set, ...]:
        """The sets of the first group that `key` is in; those of all groups for an anchor."""
        if key in self.anchors:
            return tuple(one for sets in self.groups for one in sets)
        return next(sets for sets in self.groups if key in sets[0].blocks)

    def ratio(self, a: int, b: int) -> Estimate:
        """The time of `a` over the time of `b`, with the interval of fresh processes.

        Each set gives one value, the median over its rounds of the ratio of the two blocks. Student's interval on logs
        over the sets covers the differences between processes; the interval of a single set does not. Models of two
        groups are compared through the baseline, which is in both.
        """
        if a == b:
            return Estimate(1.0, 1.0, 1.0)
        shared = [sets for sets in self.groups if {a, b} <= sets[0].blocks.keys()]
        if not shared:
            return quotient(self.ratio(a, self.anchors[0]), self.ratio(b, self.anchors[0]))
        logs = [np.log(one.medians(a)) - np.log(one.medians(b)) for sets in shared for one in sets]
        if len(logs) == 1:
            low, high = stats.median_interval(logs[0])
            return Estimate(math.exp(float(np.median(logs[0]))), math.exp(low), math.exp(high))
        return stats.over_processes(np.exp([np.median(rounds) for rounds in logs]))

    def speed(self, key: int) -> float:
        """The factor that scales the times of the model's group to the baseline's median over all groups."""
        if len(self.groups) == 1 or key in self.anchors:
            return 1.0
        everywhere, here = (
            np.concatenate([np.log(one.medians(self.anchors[0])) for one in sets])
            for sets in (self.sets_of(self.anchors[0]), self.sets_of(key))
        )
        return math.exp(float(np.median(everywhere) - np.median(here)))


def run(
    groups: Sequence[Mapping[int, Opener]],
    anchors: Sequence[int],
    inputs: Sequence[Batch],
    plan: CampaignPlan,
    seed: int,
    read: Read = clock.read,
    at_once: int = 1,
    progress: Callable[[float], None] = lambda done: None,
    is_fault: Callable[[Exception], bool] = lambda error: False,
) -> Campaign:
    """Time the models that `groups` open. A model that fails is left out; the baseline must not fail.

    All processes of a set are opened before the first is warmed up; then the rounds follow. In each round every model
    has one block, in random order, while the processes of all other models are stopped.

    Args:
        groups: for each group of models that are open together, the opener of each model by its key.
        anchors: keys of the models that are in every group, the baseline first.
        inputs: batches, all of the same number of rows.
        seed: of the order of models and blocks.
        read: reads the machine's counters.
        at_once: number of processes that are opened at a time.
        progress: called with the share that is done, 0 to 1.
        is_fault: whether an exception is an error of the program rather than of the model; such an error is raised.

    Raises:
        RuntimeError: the baseline failed.
    """
    generator = np.random.default_rng(seed)
    failed = Failures(is_fault)
    timed: list[list[Set]] = [[] for _ in groups]
    steps = plan.sets * len(groups)
    for step in range(steps):
        openers = groups[step % len(groups)]
        progress(step / steps)
        left = [key for key in openers if key not in failed]
        order = [left[i] for i in generator.permutation(len(left))]
        with opened({key: openers[key] for key in order}, at_once, failed) as sides:
            timed[step % len(groups)].append(_set(sides, inputs, plan, generator, read, failed))
        if anchors[0] in failed:
            raise RuntimeError(f"the uncompressed model could not be timed: {failed[anchors[0]]}")
    present = tuple(key for key in anchors if key not in failed)
    return Campaign(tuple(tuple(sets) for sets in timed if sets), present, plan, failed)


def _set(
    sides: Mapping[int, Side],
    inputs: Sequence[Batch],
    plan: CampaignPlan,
    generator: np.random.Generator,
    read: Read,
    failed: Failures,
) -> Set:
    """One set of open processes, timed again while the machine is disturbed; the quietest attempt is kept."""
    attempt, retried_for = paired_timing.quietest(
        lambda: _attempt(sides, inputs, plan, generator, read, failed), plan.attempts
    )
    return replace(attempt, retried_for=retried_for)


def _attempt(
    sides: Mapping[int, Side],
    inputs: Sequence[Batch],
    plan: CampaignPlan,
    generator: np.random.Generator,
    read: Read,
    failed: Failures,
) -> Set:
    keys = [key for key in sides if key not in failed]

    ask = asker(sides, failed, plan.timeout_s)
    blocks: dict[int, list[Floats]] = {key: [] for key in keys}
    device: dict[int, list[Floats]] = {}
    tokens: dict[int, list[Floats]] = {}
    with paired_timing.stopped([sides[key] for key in keys]):
        warm_up = {key: ask(key, "warm", inputs, plan.warm_s) for key in keys}
        info = {key: ask(key, "info") for key in keys}
        before = read([sides[key].pid for key in keys])
        for _ in range(plan.rounds):
            for key in generator.permutation(keys).tolist():
                answered = ask(key, "block", inputs, plan.block_s, plan.minimum)
                if answered is not None:
                    blocks[key].append(np.asarray(answered, dtype=np.float64))
                if info[key] is not None and info[key].get("generates"):
                    answered = ask(key, "token_times")
                    tokens.setdefault(key, []).append(np.asarray(answered, dtype=np.float64))
                if info[key] is not None and info[key]["device"] == "cuda":
                    answered = ask(key, "device_block", inputs, plan.block_s * DEVICE_SHARE, plan.minimum)
                    device.setdefault(key, []).append(np.asarray(answered, dtype=np.float64))
        after = read([sides[key].pid for key in keys])
    clocks = None if after.gpu is None else (after.gpu.clock_mhz, after.gpu.max_clock_mhz)
    shapes = {tuple((name, array.shape) for name, array in batch.items()) for batch in inputs}
    left = [key for key in keys if key not in failed]
    return Set(
        {key: blocks[key] for key in left},
        {key: device[key] for key in left if key in device},
        {key: tokens[key] for key in left if key in tokens},
        {key: {**info[key], "fixed_shape": len(shapes) == 1} for key in left},
        {key: warm_up[key] for key in left},
        clock.busy(before, after),
        clocks,
        tuple(noise.of_machine(before, after)),
    )
