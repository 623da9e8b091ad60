"""How far a measurement repeats: the same model on both sides, again and again (A/A).

    python -m benchmarks.repeatability                 100 quick comparisons, 50 campaigns, 20 on a loaded machine
    python -m benchmarks.repeatability --quick         fewer, in under ten minutes on two idle cores
    python -m benchmarks.repeatability --check         exit 1 where a promised figure is missed

The true ratio is 1. Promised: the 95 % interval contains it in at least 93 % of the comparisons, repeated attempts and
all; in 95 % of the comparisons quick ratios are within 5 % of it, and a final campaign's within 2 % (1 % on a GPU). A
campaign takes at most 8 s a finalist, its processes' start included. Then another process loads the CPU, and at least
90 % of the measurements that it disturbs must be marked noisy.

Needs an idle machine: the figures of a busy one say nothing, and are marked so.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import header, timed_models
from objectives import campaign, campaign_measurements, latency
from objectives.latency import QUICK
from objectives.measurement import Measurement
from objectives.stats import share_interval

#: Quick comparisons, campaigns, and quick comparisons on a loaded machine.
FULL, BRIEF = (100, 50, 20), (40, 6, 8)
MODELS = 6  # of a campaign; every two neighbours are a comparison
PLAN = campaign.CampaignPlan.lasting(2.4, at_least_s=0.75)  # the defaults of `measure.final_s` and `measure.quick_s`
CONTAINS, MARKED = 0.93, 0.90
FINALIST_S = 8.0
WITHIN = {("quick", "cpu"): 0.05, ("quick", "cuda"): 0.05, ("campaign", "cpu"): 0.02, ("campaign", "cuda"): 0.01}
INSIDE = 0.95

Compare = Callable[[int], list[Measurement]]


def quick(folder: Path, runtime: str, device: str) -> Iterator[Compare]:
    """As in the loop: one fresh process a side."""

    def compare(seed: int) -> list[Measurement]:
        opened = functools.partial(timed_models.opened, folder, runtime, device)
        with opened() as candidate, opened() as baseline:
            timed = latency.measure(candidate, baseline, timed_models.fed(), QUICK, seed, {"device": device})
        return [timed[latency.SPEEDUP_RATIO.name]]

    yield compare


def final(folder: Path, runtime: str, device: str) -> Iterator[Compare]:
    """As for finalists: one model as often as there would be finalists, in turns over fresh processes."""

    def compare(seed: int) -> list[Measurement]:
        openers = {key: lambda: timed_models.opened(folder, runtime, device) for key in range(MODELS)}
        timed = campaign.run([openers], (0, 1), timed_models.fed(), PLAN, seed, at_once=len(os.sched_getaffinity(0)))
        conditions = campaign_measurements.measurements(timed, 0, 1, seed, {})[latency.P50.name].conditions
        pairs = [timed.ratio(key, key + 1) for key in range(0, MODELS, 2)]
        rounds = PLAN.sets * PLAN.rounds
        return [latency.SPEEDUP_RATIO.measured(ratio.value, ratio.interval, rounds, conditions) for ratio in pairs]

    yield compare


def burn(cpus: set[int]) -> None:
    """Busy on one CPU until ended."""
    os.sched_setaffinity(0, {min(cpus)})
    while True:
        sum(range(10_000))


@contextmanager
def load() -> Iterator[None]:
    """Another process at work on one CPU."""
    process = multiprocessing.get_context("spawn").Process(target=burn, args=(os.sched_getaffinity(0),), daemon=True)
    process.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        process.kill()
        process.join()


def compared(opened: Iterator[Compare], count: int, name: str) -> list[dict[str, Any]]:
    """What `count` comparisons found, one line of progress on a terminal."""
    compare = next(opened)
    runs = []
    for seed in range(count):
        began = time.monotonic()
        for ratio in (comparisons := compare(seed)):
            low, high = ratio.interval
            runs.append(
                {
                    "ratio": ratio.value,
                    "low": low,
                    "high": high,
                    "noisy": ratio.conditions["noisy"],
                    "attempts": 1 + len(ratio.conditions["retried_for"]),
                }
            )
        for one in runs[-len(comparisons) :]:
            one["seconds"] = round(time.monotonic() - began, 2)
        if sys.stderr.isatty():
            print(f"\r{name} {seed + 1}/{count}", end="", file=sys.stderr, flush=True)
    opened.close()  # type: ignore[attr-defined]
    return runs


def summary(tier: str, device: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    ratios = np.array([run["ratio"] for run in runs])
    within = WITHIN[tier, device]
    return {
        "tier": tier,
        "runs": len(runs),
        "contains": float(np.mean([run["low"] <= 1 <= run["high"] for run in runs])),
        "within": float((np.abs(ratios - 1) <= within).mean()),
        "bound": within,
        "spread": float(np.quantile(np.abs(ratios - 1), 0.95)),
        "half_width": float(np.median([(run["high"] / run["low"]) ** 0.5 - 1 for run in runs])),
        "noisy": float(np.mean([bool(run["noisy"]) for run in runs])),
        "seconds": float(np.median([run["seconds"] for run in runs])),
    }


def row(figures: dict[str, Any]) -> tuple[str, ...]:
    def share(key: str) -> str:
        low, high = share_interval(round(figures[key] * figures["runs"]), figures["runs"])
        return f"{figures[key]:.0%} ({low:.0%} to {high:.0%})"

    return (
        figures["tier"],
        str(figures["runs"]),
        share("contains"),
        f"{share('within')} in {figures['bound']:.0%}",
        f"{figures['spread']:.1%}",
        f"{figures['half_width']:.1%}",
        f"{figures['noisy']:.0%}",
        f"{figures['seconds']:.1f} s",
    )


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--runtime", default="eager", help="eager, onnx, ... (default: eager)")
    parser.add_argument(
        "--runs", type=int, nargs=3, metavar=("QUICK", "FINAL", "LOADED"), help="comparisons of each kind"
    )
    arguments = parser.parse_args()
    counts = arguments.runs or (BRIEF if arguments.quick else FULL)
    device = arguments.device
    about = header.hardware(device)
    print(f"{header.heading(about)}\nMiniLM (6 layers), {arguments.runtime}, {device}, batch 1, length 32\n")
    with tempfile.TemporaryDirectory() as temporary:
        subject = timed_models.write_model(Path(temporary) / "model"), arguments.runtime, device
        with timed_models.opened(*subject):  # makes the runtime's files, if it has any
            pass
        runs = {
            "quick": compared(quick(*subject), counts[0], "quick"),
            "campaign": compared(final(*subject), counts[1], "campaign"),
        }
        with load():
            runs["loaded"] = compared(quick(*subject), counts[2], "loaded")
    figures = [summary(tier, device, runs[tier]) for tier in ("quick", "campaign") if runs[tier]]
    columns = ("tier", "runs", "interval holds 1", "within", "95 % lie in", "half width", "noisy", "each")
    print(header.table(columns, [row(f) for f in figures]))
    marked = float(np.mean([bool(run["noisy"]) for run in runs["loaded"]])) if runs["loaded"] else float("nan")
    promises = []
    for f in figures:
        promises.append(header.Promise(f"{f['tier']}: share of intervals that hold 1.00", f["contains"], CONTAINS))
        promises.append(
            header.Promise(f"{f['tier']}: share of ratios within {f['bound']:.0%} of 1", f["within"], INSIDE)
        )
    if runs["campaign"]:
        each = float(np.median([run["seconds"] for run in runs["campaign"]])) / MODELS
        print(f"\na campaign of {MODELS} models takes {each:.1f} s a model")
        promises.append(header.Promise("campaign: seconds a finalist", each, high=FINALIST_S))
    if runs["loaded"]:
        print(
            f"\nwith another process on one CPU: {marked:.0%} of {len(runs['loaded'])} quick comparisons marked noisy"
        )
        promises.append(header.Promise("loaded: share marked noisy", marked, MARKED))
    return header.finish(arguments, about, {"summary": figures, "runs": runs}, promises)


if __name__ == "__main__":
    sys.exit(main())
