"""How far a comparison repeats on this device: the same model on both sides (A/A), and device time beside host time.

The true ratio is 1. Promised: those of a campaign within 1 % of it on a GPU, quick ones within 5 %. Several pairs of
fresh processes are open at once, and take turns: opening them one after the other, as a search does, takes minutes.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import header, timed_models
from benchmarks.gpu import several
from benchmarks.gpu.run_setup import RunSetup
from benchmarks.gpu.tables import Report
from benchmarks.repeatability import INSIDE, WITHIN
from objectives import campaign, campaign_measurements, latency
from objectives.estimate import Estimate
from objectives.latency import QUICK
from objectives.measurement import Measurement
from objectives.process import Remote

COLUMNS = ("runtime", "kind", "pair", "ratio", "low", "high", "within %", "host_ms", "device_ms", "note")
#: (runtime, quick comparisons, campaigns) and the pairs of processes that they use in turn.
RUNTIMES, PAIRS = (("cuda_graph", 6, 2), ("eager", 6, 2)), 3
DRY_RUNTIMES, DRY_PAIRS = (("eager", 2, 1),), 1
QUICK_S, DRY_S = 0.8, 0.1
#: Seconds of one process over all sets.
PLAN, DRY_PLAN = campaign.CampaignPlan.lasting(1.5), campaign.CampaignPlan.lasting(0.1)


def run(setup: RunSetup, report: Report) -> None:
    runtimes, pairs = (DRY_RUNTIMES, DRY_PAIRS) if setup.dry else (RUNTIMES, PAIRS)
    size = "a toy model" if setup.dry else "MiniLM (6 layers)"
    title = f"A/A ratios of {size} with random weights, batch 1, length 32, {pairs} pairs of processes"
    report.begin(title, COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        model = timed_models.write_model(Path(folder) / "model", timed_models.TOY if setup.dry else timed_models.CONFIG)
        for runtime, quick, campaigns in runtimes:
            openings = [partial(timed_models.opened, model, runtime, setup.device)] * (2 * pairs)
            with several.opened(openings) as sides:
                broken = [side for side in sides if isinstance(side, Exception)]
                if broken:
                    report.add(runtime=runtime, note=several.brief(broken[0]))
                    continue
                compare(report, setup, runtime, [s for s in sides if isinstance(s, Remote)], quick, campaigns)
    judge(report, "cpu" if setup.dry else "cuda")


def compare(report: Report, setup: RunSetup, runtime: str, sides: list[Remote], quick: int, campaigns: int) -> None:
    """Quick comparisons of one pair each, then campaigns of all processes."""
    conditions, fed = {"device": setup.device}, timed_models.fed()
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    quick_s, plan = (DRY_S, DRY_PLAN) if setup.dry else (QUICK_S, PLAN)
    beside = several.read_beside(len(sides) - 2, setup.device)
    for number in range(quick):
        candidate, baseline = pairs[number % len(pairs)]
        timed = latency.measure(candidate, baseline, fed, QUICK.lasting(quick_s), number, conditions, beside)
        add(report, runtime, "quick", str(number % len(pairs) + 1), timed[latency.SPEEDUP_RATIO.name].estimate, timed)
        stop(candidate, baseline)
    read = several.read_beside(0, setup.device)
    for number in range(campaigns):
        openers = {key: Turn(sides, key) for key in range(len(sides))}
        rounds = campaign.run([openers], (0, 1), fed, plan, number, read)
        for key in range(0, len(sides), 2):
            timed = campaign_measurements.measurements(rounds, key, latency.rows_per_batch(fed), number, conditions)
            add(report, runtime, "campaign", str(key // 2 + 1), rounds.ratio(key, key + 1), timed)
        stop(*sides)


class Turn:
    """Opens, for each set of a campaign, the next of the processes that are open already: fresh ones take too long."""

    def __init__(self, sides: Sequence[Remote], key: int) -> None:
        self._sides, self._next = sides, itertools.count(key)

    def __call__(self) -> AbstractContextManager[Remote]:
        return nullcontext(self._sides[next(self._next) % len(self._sides)])


def stop(*sides: Remote) -> None:
    for side in sides:
        side.pause()


def add(report: Report, runtime: str, kind: str, pair: str, ratio: Estimate, timed: Mapping[str, Measurement]) -> None:
    device = timed.get(latency.DEVICE_P50.name)
    host = timed[latency.P50.name]
    low, high = ratio.interval
    report.add(
        runtime=runtime,
        kind=kind,
        pair=pair,
        ratio=ratio.value,
        low=low,
        high=high,
        **{"within %": 100 * abs(ratio.value - 1)},
        host_ms=host.value,
        device_ms=None if device is None else device.value,
        note=host.conditions["noisy"],
    )


def judge(report: Report, device: str) -> None:
    """The promises, over all rows of a kind; and what share of host time the device sees."""
    promises = []
    for kind in ("quick", "campaign"):
        rows: list[dict[str, Any]] = [row for row in report.rows if row.get("kind") == kind]
        if rows:
            bound = WITHIN[kind, device]
            share = sum(abs(row["ratio"] - 1) <= bound for row in rows) / len(rows)
            what = f"share of {len(rows)} {kind} ratios within {bound:.0%} of 1"
            promises.append(header.Promise(what, share, INSIDE))
    report.goals(promises)
    for runtime in dict.fromkeys(row["runtime"] for row in report.rows):
        timed = [r for r in report.rows if r["runtime"] == runtime and r.get("device_ms") is not None]
        if timed:
            share = sum(r["device_ms"] / r["host_ms"] for r in timed) / len(timed)
            report.note(f"{runtime}: the device's own time is {share:.0%} of the time on the host")
