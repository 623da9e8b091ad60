"""How often the 95 % interval of a ratio of times contains the true one, when the truth is known.

    python -m benchmarks.coverage            2,000 repetitions of every case, both tiers
    python -m benchmarks.coverage --check    exit 1 unless every case is covered in 93 to 97 %

Pairs of models are simulated on a machine whose disturbances are planted; what times them is the real protocol: the
randomised order, the fixed number of blocks, the search for noise, the repeated attempts and the choice among
them. So the coverage is that of the rule which is actually used. The load that other processes make comes and goes,
and slows what is timed meanwhile, so that attempts are repeated for it and for what the times show.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import fresh_pairs, header
from objectives import paired_timing
from objectives.arrays import Floats
from objectives.bench import Batch
from objectives.clock import Reading
from objectives.estimate import Estimate
from objectives.paired_timing import QUICK, Protocol

BASE_MS = 9.0
RATIO = 1.3  # of the baseline's time to the candidate's: the truth
SWITCH_S = 0.02  # from one block to the next
LOAD_CHANCE = 0.15  # that an attempt meets another process's load
INPUTS: list[Batch] = [{"input_ids": np.ones((1, 8), dtype=np.int64)}]
REPETITIONS = 2000
LOW, HIGH = 0.93, 0.97
SHARES = ("half_width", "retried", "noisy")

Noise = Callable[[np.random.Generator, int], Floats]
Common = Callable[[Floats], Floats]  # at seconds (n,), the same whoever asks


@dataclass(frozen=True)
class Case:
    """What disturbs the logs of times."""

    name: str
    own: Callable[[np.random.Generator], Noise]  # of one side's calls, in their order
    common: Callable[[np.random.Generator], Common]  # of the machine


def skewed(_: np.random.Generator) -> Noise:
    return lambda generator, count: 0.1 * generator.exponential(size=count) ** 1.5


def plain(_: np.random.Generator) -> Noise:
    return lambda generator, count: 0.03 * generator.standard_normal(count)


def bimodal(_: np.random.Generator) -> Noise:
    return lambda generator, count: 0.02 * generator.standard_normal(count) + 0.3 * (generator.random(count) < 0.35)


class Autocorrelated:
    """AR(1): half of every call's noise goes over to the next, and so into the side's next block."""

    CARRIED = 0.5

    def __init__(self, generator: np.random.Generator) -> None:
        self._last = float(generator.standard_normal())

    def __call__(self, generator: np.random.Generator, count: int) -> Floats:
        noise = np.empty(count)
        for i, fresh in enumerate(generator.standard_normal(count) * np.sqrt(1 - self.CARRIED**2)):
            noise[i] = self._last = self.CARRIED * self._last + fresh
        return 0.05 * noise


def still(_: np.random.Generator) -> Common:
    return lambda at: np.zeros(len(at))


def wandering(generator: np.random.Generator) -> Common:
    """Slow and fast waves with random phases: a machine whose speed wanders over a tenth of a second to seconds."""
    rates, phases = 2 * np.pi / np.geomspace(0.1, 4, 12), generator.uniform(0, 2 * np.pi, 12)
    heights = np.full(12, 0.05)
    return lambda at: np.asarray(np.sin(at[:, None] * rates + phases) @ heights, dtype=np.float64)


def switching(generator: np.random.Generator) -> Common:
    """A bimodal machine, its speeds 25 % apart: it changes between them every quarter of a second or so."""
    changes = np.cumsum(generator.exponential(0.25, size=400))
    return lambda at: np.where(np.searchsorted(changes, at) % 2, 0.25, 0.0)


def drifting(generator: np.random.Generator) -> Common:
    """Steadily slower by half over four seconds, then as steadily faster, with bursts that both sides meet."""
    start, waves = generator.uniform(0, 2), wandering(generator)
    return lambda at: 0.4 * np.abs((at / 4 + start) % 2 - 1) + np.maximum(0, waves(at))


CASES = (
    Case("skewed", skewed, still),
    Case("autocorrelated, own", Autocorrelated, still),
    Case("autocorrelated, common", plain, wandering),
    Case("bimodal, own", bimodal, still),
    Case("bimodal, common", plain, switching),
    Case("common drift", plain, drifting),
)
BETWEEN = 0.01  # standard deviation of what sets one process apart from the next, in the long tier


class Machine:
    """Seconds pass as simulated calls take them; another process's load comes and goes by attempts."""

    def __init__(self, case: Case, generator: np.random.Generator) -> None:
        self.case, self.generator = case, generator
        self.now, self._taken, self._since = 0.0, 0.0, 0.0
        self._timing, self._loaded = False, False
        self._common = case.common(generator)

    def common(self, at: Floats) -> Floats:
        load = 0.4 * (np.sin(2 * np.pi * at / 0.3) > 0.5) if self._loaded else 0.0
        return self._common(at) + load

    def read(self, pids: Sequence[int]) -> Reading:
        """Two CPUs. At the beginning of an attempt it is drawn whether it meets a load; at its end that is seen."""
        if self._loaded:
            self._taken += 0.5 * (self.now - self._since)
        self._timing = not self._timing
        self._loaded = self._timing and bool(self.generator.random() < LOAD_CHANCE)
        self._since = self.now
        return Reading(self.now, 2, self._taken, tuple(0.0 for _ in pids))


class Simulated:
    """A side whose calls take what the machine, its own noise and its process say."""

    def __init__(self, machine: Machine, pid: int, ms: float, between: float) -> None:
        self.pid = pid
        self._machine = machine
        self._log = float(np.log(ms) + between * machine.generator.standard_normal())
        self._own = machine.case.own(machine.generator)

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if method == "warm":
            self._machine.now += 0.2
            return {"seconds": 0.2}
        if method == "info":
            return {"device": "cpu", "first_call_ms": 1.0, "prepare_s": 1.0}
        assert method == "block"
        _, seconds, minimum = arguments
        count = max(minimum, round(seconds * 1e3 / np.exp(self._log)))
        own = self._log + self._own(self._machine.generator, count)
        at = self._machine.now + np.cumsum(np.exp(own)) / 1e3
        times = np.exp(own + self._machine.common(at))
        self._machine.now += float(times.sum()) / 1e3 + SWITCH_S
        return times

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@dataclass(frozen=True)
class Tier:
    """How long a pair is timed, and over how many fresh pairs of processes."""

    name: str
    protocol: Protocol
    pairs: int


TIERS = (Tier("quick", QUICK, 1), Tier("long", fresh_pairs.lasting(4.0), fresh_pairs.PAIRS))


def repetition(case: Case, tier: Tier, seed: int) -> tuple[Estimate, int, bool]:
    """(the ratio, attempts that were given up, whether what is kept is marked noisy)."""
    generator = np.random.default_rng(seed)
    machine = Machine(case, generator)
    between = BETWEEN if tier.pairs > 1 else 0.0
    sessions = []
    for number in range(tier.pairs):
        candidate = Simulated(machine, 2 * number, BASE_MS / RATIO, between)
        baseline = Simulated(machine, 2 * number + 1, BASE_MS, between)
        sessions.append(paired_timing.session(candidate, baseline, INPUTS, tier.protocol, generator, machine.read))
    ratio = sessions[0].ratio if tier.pairs == 1 else fresh_pairs.ratio(sessions)
    return ratio, sum(len(s.retried_for) for s in sessions), any(s.disturbances for s in sessions)


def covered(case: Case, tier: Tier, repetitions: int) -> dict[str, Any]:
    runs = [repetition(case, tier, seed) for seed in range(repetitions)]
    intervals = np.array([estimate.interval for estimate, _, _ in runs])
    inside = (intervals[:, 0] <= RATIO) & (intervals[:, 1] >= RATIO)
    return {
        "case": case.name,
        "tier": tier.name,
        "repetitions": repetitions,
        "coverage": float(inside.mean()),
        "half_width": float(np.median(intervals[:, 1] / intervals[:, 0]) ** 0.5 - 1),
        "retried": float(np.mean([given_up > 0 for _, given_up, _ in runs])),
        "noisy": float(np.mean([noisy for _, _, noisy in runs])),
    }


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--only", default="", metavar="TEXT", help='cases and tiers that contain it: "bimodal", "long"')
    arguments = parser.parse_args()
    about = header.hardware()
    print(header.heading(about) + "\n")
    wanted = [(case, tier) for case in CASES for tier in TIERS if arguments.only in f"{case.name} {tier.name}"]
    jobs = [(case, tier, arguments.repetitions) for case, tier in wanted]
    with multiprocessing.get_context("spawn").Pool() as pool:
        figures = pool.starmap(covered, jobs, chunksize=1)
    columns = ("case", "tier", "repetitions", "coverage", "half width", "retried", "noisy")
    rows = [
        (
            f["case"],
            f["tier"],
            f["repetitions"],
            f"{f['coverage']:.3f}",
            *(f"{f[k]:.1%}" for k in ("half_width", "retried", "noisy")),
        )
        for f in figures
    ]
    print(header.table(columns, rows))
    promises = [header.Promise(f"coverage, {f['case']}, {f['tier']}", f["coverage"], LOW, HIGH) for f in figures]
    return header.finish(arguments, about, figures, promises)


if __name__ == "__main__":
    sys.exit(main())
