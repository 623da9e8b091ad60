"""How far a comparison repeats on this device: the same model on both sides (A/A), and device time beside host time.

The true ratio is 1. Promised: long comparisons within 1 % of it on a GPU, quick ones within 5 %. Several pairs of fresh
processes are open at once, and take turns: opening them one after the other, as a search does, would take minutes.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import header
import models
import several
from place import Place
from repeatability import INSIDE, WITHIN
from tables import Report

from objectives import latency
from objectives.latency import LONG, QUICK
from objectives.measurement import Measurement
from objectives.process import Remote

COLUMNS = ("runtime", "kind", "pair", "ratio", "low", "high", "within %", "host_ms", "device_ms", "note")
#: (runtime, quick comparisons, long ones) and the pairs of processes that they use in turn.
RUNTIMES, PAIRS = (("cuda_graph", 6, 2), ("eager", 6, 2)), 3
DRY_RUNTIMES, DRY_PAIRS = (("eager", 2, 1),), 1
QUICK_S, LONG_S = 0.8, 3.0
DRY_S = 0.1


def run(place: Place, report: Report) -> None:
    runtimes, pairs = (DRY_RUNTIMES, DRY_PAIRS) if place.dry else (RUNTIMES, PAIRS)
    size = "a toy model" if place.dry else "MiniLM (6 layers)"
    title = f"A/A ratios of {size} with random weights, batch 1, length 32, {pairs} pairs of processes"
    report.begin(title, COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        model = models.write_model(Path(folder) / "model", models.TOY if place.dry else models.CONFIG)
        for runtime, quick, long in runtimes:
            openings = [partial(models.opened, model, runtime, place.device)] * (2 * pairs)
            with several.opened(openings) as sides:
                broken = [side for side in sides if isinstance(side, Exception)]
                if broken:
                    report.add(runtime=runtime, note=several.brief(broken[0]))
                    continue
                compare(report, place, runtime, [s for s in sides if isinstance(s, Remote)], quick, long)
    judge(report, "cpu" if place.dry else "cuda")


def compare(report: Report, place: Place, runtime: str, sides: list[Remote], quick: int, long: int) -> None:
    """Quick comparisons of one pair each, then long ones over all pairs."""
    conditions, fed = {"device": place.device}, models.fed()
    read = several.read_beside(len(sides) - 2, place.device)
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    quick_s, long_s = (DRY_S, DRY_S) if place.dry else (QUICK_S, LONG_S)
    for number in range(quick):
        candidate, baseline = pairs[number % len(pairs)]
        timed = latency.measure(candidate, baseline, fed, QUICK.lasting(quick_s), number, conditions, read)
        add(report, runtime, "quick", str(number % len(pairs) + 1), timed)
        stop(candidate, baseline)
    for number in range(long):
        turns = Turns(pairs)
        protocol = LONG.lasting(long_s)
        timed = latency.measure_fresh(turns.candidate, turns.baseline, fed, protocol, number, conditions, read)
        turns.over()
        add(report, runtime, "long", "all", timed)


class Turns:
    """Pairs that are open already, one after the other, in the place of fresh ones; who had its turn is stopped."""

    def __init__(self, pairs: Sequence[tuple[Remote, Remote]]) -> None:
        self._pairs = itertools.cycle(pairs)
        self._current: tuple[Remote, ...] = ()

    def candidate(self) -> AbstractContextManager[Remote]:
        self.over()
        self._current = next(self._pairs)
        return nullcontext(self._current[0])

    def baseline(self) -> AbstractContextManager[Remote]:
        return nullcontext(self._current[1])

    def over(self) -> None:
        stop(*self._current)


def stop(*sides: Remote) -> None:
    for side in sides:
        side.pause()


def add(report: Report, runtime: str, kind: str, pair: str, timed: dict[str, Measurement]) -> None:
    ratio = timed[latency.SPEEDUP.name]
    device = timed.get(latency.DEVICE_P50.name)
    host_ms = timed[latency.P50.name].value
    report.add(
        runtime=runtime,
        kind=kind,
        pair=pair,
        ratio=ratio.value,
        low=ratio.interval[0],
        high=ratio.interval[1],
        **{"within %": 100 * abs(ratio.value - 1)},
        host_ms=host_ms,
        device_ms=None if device is None else device.value,
        note=ratio.conditions["noisy"],
    )


def judge(report: Report, device: str) -> None:
    """The promises, over all rows of a kind; and what share of host time the device sees."""
    promises = []
    for kind in ("quick", "long"):
        rows: list[dict[str, Any]] = [row for row in report.rows if row.get("kind") == kind]
        if rows:
            bound = WITHIN[kind, device]
            share = sum(abs(row["ratio"] - 1) <= bound for row in rows) / len(rows)
            what = f"share of {len(rows)} {kind} ratios within {bound:.0%} of 1"
            promises.append(header.Promise(what, share, INSIDE))
    report.goals(promises)
    for runtime in dict.fromkeys(row["runtime"] for row in report.rows):
        seen = [r for r in report.rows if r["runtime"] == runtime and r.get("device_ms") is not None]
        if seen:
            share = sum(r["device_ms"] / r["host_ms"] for r in seen) / len(seen)
            report.note(f"{runtime}: the device's own time is {share:.0%} of the time on the host")
