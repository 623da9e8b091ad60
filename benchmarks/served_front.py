"""An exported front with its service and its questions: loads, and the figures of what comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.served import Bodies, Question, Reply, Served, questions
from search.serve.batching import CLOSE_LENGTHS, Limits, limits_for
from search.serve.fleet import windows_of
from search.serve.policy import Policy
from search.serve.variants import Variant, from_front, hull
from tests.worlds.arrivals import Arrivals, scaled, shaped
from tests.worlds.serving import Machine, simulate

#: A deadline for requests whose throughput is wanted.
PATIENT_MS = 20_000
CALLERS = 16
#: Requests a second that are prepared for callers that are never done.
MOST_PER_S = 250
#: How many times the unit of the loads the fastest variant answers at least: loads of 2.5 units for long are then 70 %
#: of what it answers. At 80 % it had 90 % of a trace in time itself.
ROOM = 3.5


@dataclass(frozen=True)
class Run:
    """Figures of one policy under one load."""

    offered: int
    attainment: float  # share of the offered
    effective: float  # mean F1, 0 to 1
    not_taken: float  # share that is refused or dropped
    p99_ms: float  # of what was answered
    variants: dict[str, int]  # answers by variant
    simulated: float = float("nan")  # attainment of the same arrivals in the simulation


def figures(asked: Sequence[Question], replies: Sequence[Reply], slo_ms: float) -> Run:
    in_time = [reply.status == 200 and reply.ms <= slo_ms for reply in replies]
    right = [
        one.score(reply.fields["answer"]) if good else 0.0
        for one, reply, good in zip(asked, replies, in_time, strict=True)
    ]
    answered = [reply for reply in replies if reply.status == 200]
    names = [str(reply.fields["variant"]) for reply in answered]
    return Run(
        len(replies),
        float(np.mean(in_time)),
        float(np.mean(right)),
        1.0 - len(answered) / len(replies),
        float(np.quantile([reply.ms for reply in answered], 0.99)) if answered else float("nan"),
        {name: names.count(name) for name in sorted(set(names))},
    )


class Bench:
    """One front, its service and what is measured of them."""

    def __init__(self, export: Path, slo_ms: float, quick: bool) -> None:
        front = json.loads((export / "front.json").read_text())
        if front["task"] != "question-answering":
            raise SystemExit(f"--export: must be a front of question-answering, got one of {front['task']}")
        self.export, self.slo_ms, self.quick = export.absolute(), slo_ms, quick
        self.limits = Limits(slo_s=slo_ms / 1e3)
        self.variants = hull(from_front(front), self.limits.max_batch)
        self.study = str(front["study"])
        self.bodies = Bodies(questions())
        self.windows = windows_of(front["task"], export / "models" / str(self.variants[0].number))
        self.capacity = 0.0  # requests a second of the most accurate variant, once it is measured
        self.unit = 0.0  # requests a second that loads are multiples of

    def served(self, *options: str) -> Served:
        return Served(self.export, self.slo_ms, *options)

    def throughput(
        self, served: Served, number: int, seconds: float, callers: int = CALLERS
    ) -> tuple[list[Question], list[Reply]]:
        """Questions and replies of one variant to callers that are never done, in order."""
        served.pin(number)
        asked, bodies = self.bodies.take(int(MOST_PER_S * seconds), PATIENT_MS)
        replies = served.load(bodies, callers=callers, seconds=seconds).replies()
        failed = [reply.status for reply in replies if reply.status != 200]
        if failed:
            raise RuntimeError(f"patient callers were refused: {sorted(set(failed))}")
        return asked[: len(replies)], replies

    def tokens(self, asked: Sequence[Question]) -> np.ndarray:
        """The tokens (N,) of questions, as a service counts them whose batches gain nothing."""
        close = replace(self.limits, lengths=CLOSE_LENGTHS)
        return np.asarray([close.padded(self.windows.length(one.question, one.context)) for one in asked])

    @property
    def seconds(self) -> float:
        """Of a measurement of throughput."""
        return 5.0 if self.quick else 10.0

    def accurate_per_s(self) -> float:
        """Requests a second of the most accurate variant, measured once, by a service of its own."""
        if not self.capacity:
            with self.served() as served:
                self.capacity = per_s(self.throughput(served, self.variants[-1].number, self.seconds)[1])
        return self.capacity

    def measured_variants(self, served: Served) -> tuple[Variant, ...]:
        """The variants with times of calls on one row and on eight as this service has them; sets `unit`, `capacity`.

        Loads are multiples of what the most accurate variant answers, but of less where the fastest one could not
        answer them in time (`ROOM`): a load that no variant can answer says nothing of a policy.
        """
        measured, full_per_s, seconds = [], list[float](), self.seconds
        for variant in self.variants:
            self.throughput(served, variant.number, 1.0, 1)
            asked, replies = self.throughput(served, variant.number, seconds, 1)
            alone = np.asarray([reply.fields["milliseconds"]["model"] for reply in replies])
            tokens = self.tokens(asked)
            full = per_s(self.throughput(served, variant.number, seconds)[1])
            # The rest is noise: a row's tokens explain most of the spread between calls.
            p50, p99 = np.quantile(alone / tokens, [0.5, 0.99])
            points, length = ((1, float(np.mean(alone)) / 1e3), (8, 8 / full)), round(float(np.mean(tokens)))
            measured.append(replace(variant, points=points, length=length, tail=float(p99 / p50)))
            full_per_s.append(full)
        self.capacity, self.unit = full_per_s[-1], min(full_per_s[-1], full_per_s[0] / ROOM)
        return tuple(measured)

    def arrivals(self, case: str, trace: Arrivals, seconds: float) -> Arrivals:
        if case == "trace":
            rate = 2.5 * self.unit
            return scaled(trace, rate, self.limits.lengths[-1], 0, int(rate * seconds))
        return shaped(case, self.unit, seconds, self.limits.lengths[-1], 0)

    def run(
        self,
        served: Served,
        arrivals: Arrivals,
        number: int | None,
        measured: tuple[Variant, ...],
        policy: Policy,
    ) -> Run:
        """One policy (a variant's number, or None: the service's own) under these arrivals, served and simulated."""
        served.pin(number)
        asked, bodies = self.bodies.take(len(arrivals), self.slo_ms)
        replies = served.load(bodies, at_s=arrivals.times_s.tolist()).replies()
        rows = Arrivals(arrivals.times_s, self.tokens(asked))
        machine = Machine(speed=(1.0, 1.0), variant_sd=0.0, dispatch_s=0.0)
        limits = limits_for(measured, self.limits)
        simulated = simulate(rows, measured, policy, limits, machine).attainment
        return replace(figures(asked, replies, self.slo_ms), simulated=simulated)


def per_s(replies: Sequence[Reply]) -> float:
    """Answers a second between the first request and the last answer."""
    answered = [reply for reply in replies if reply.status == 200]
    return len(answered) / max(reply.due_s + reply.ms / 1e3 for reply in answered)
