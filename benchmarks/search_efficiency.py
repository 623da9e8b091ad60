"""How much of the exhaustive front each sampler reaches, and for how many trainings; and what asking costs.

    python -m benchmarks.search_efficiency                 ten seeds on the synthetic world; overhead to 1,000 trials
    python -m benchmarks.search_efficiency --quick         three seeds, thirty sets of weights, overhead to 100 trials
    python -m benchmarks.search_efficiency --recorded FILE the world recorded by benchmarks/record.py as well
    python -m benchmarks.search_efficiency --recorded FILE --only-recorded
    python -m benchmarks.search_efficiency --only-overhead --plot FILE.png     how asking grows, as a picture too
    python -m benchmarks.search_efficiency --check         exit 1 where a promised figure is missed

Every sampler gets the same anchors and the same inner loop: each set of weights is measured under every pair of runtime
and precision. known-latency sees predicted latencies with the table's error, never the truth. Regret is 1 - hypervolume
/ that of the exhaustive front, from log latency and accuracy, up to 1.1 times the latency of the uncompressed model as
it came and the accuracy of the most frequent class. Medians and quartiles over seeds. A run has other aims than that:
models that keep most of the accuracy (economy.keep), by the second of training. One row has them, and one column counts
by them: the regret of the hypervolume above what is to be kept.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import header
from benchmarks.recorded_world import recorded
from tests import worlds

SHIPPED = "known-latency as a run has it"
SAMPLERS = ("known-latency", SHIPPED, "gp", "tpe", "nsga2", "random")
REACHED = 0.95
SHIPPABLE = "of what keeps most, in the end"
#: What ask, tell and storage may take of a trial, by the trials of the search.
OVERHEAD_MS = {100: 150.0, 1000: 300.0}


def world_of(path: Path | None) -> worlds.World:
    return worlds.synthetic() if path is None else recorded(path)


def trace(path: Path | None, weights: int, job: tuple[str, int]) -> worlds.Trace:
    """One search; `job` is (sampler, seed)."""
    sampler, seed = job
    name = "known-latency" if sampler == SHIPPED else sampler
    return worlds.search(world_of(path), name, seed, weights, shipped=sampler == SHIPPED)


def quartiles(values: Sequence[float], form: str = "{:.3f}") -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"


def regrets(reached: Sequence[Sequence[float]], best: float, count: int) -> list[float]:
    """By seed, from the hypervolumes after each set of weights."""
    return [1 - volumes[min(count, len(volumes) - 1)] / best for volumes in reached]


def needed(trace_: worlds.Trace, wanted: float) -> float:
    """Sets of weights until the hypervolume is `wanted`; infinite if it never is. The first entry is the baseline."""
    reached = [i for i, value in enumerate(trace_.hypervolume) if value >= wanted]
    return float(reached[0]) if reached else float("inf")


def samplers(path: Path | None, seeds: int, weights: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """The table of samplers on one world."""
    world = world_of(path)
    best = world.exhaustive
    jobs = [(sampler, seed) for sampler in SAMPLERS for seed in range(seeds)]
    results = list(pool.map(partial(trace, path, weights), jobs))
    traces: dict[str, Any] = {}
    for sampler in SAMPLERS:
        mine = [t for (name, _), t in zip(jobs, results, strict=True) if name == sampler]
        traces[sampler] = {
            **{
                f"regret at {n}": regrets([t.hypervolume for t in mine], best, n)
                for n in sorted({10, 25, weights})
                if n <= weights
            },
            SHIPPABLE: regrets([t.shippable for t in mine], world.exhaustive_shippable, weights),
            "weights to 95 %": [needed(t, REACHED * best) for t in mine],
            "asking_s": [t.asking_s / t.weights for t in mine],
        }
    return traces


def show(traces: dict[str, Any], weights: int) -> None:
    names = [name for name in next(iter(traces.values())) if name.startswith("regret") or name == SHIPPABLE]
    rows = []
    for sampler, figures in traces.items():
        few = np.median(figures["weights to 95 %"])
        reached = "never" if np.isinf(few) else f"{few:.0f}"
        cells = [quartiles(figures[name]) for name in names]
        rows.append((sampler, *cells, reached, f"{1e3 * float(np.median(figures['asking_s'])):.0f}"))
    print(header.table(("sampler", *names, f"weights to 95 % (of {weights})", "ms a set of weights"), rows), flush=True)


def overhead(trials: Sequence[int]) -> dict[int, float]:
    """Milliseconds a trial of ask, tell and storage in a database, over all of a search of so many trials."""
    world, per_trial = worlds.synthetic(), {}
    for count in trials:
        with tempfile.TemporaryDirectory() as folder:
            run = worlds.search(world, "known-latency", 0, 10**6, trials=count, folder=Path(folder))
        per_trial[count] = 1e3 * run.asking_s / count
    return per_trial


def plot(asked: Mapping[int, float], about: Mapping[str, Any], path: Path) -> None:
    """How ask, tell and storage grow with a search, and what they may take."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.plot(list(asked), list(asked.values()), marker="o", color="#1f5fbf", label="measured")
    limits = {count: ms for count, ms in OVERHEAD_MS.items() if count in asked}
    axes.plot(list(limits), list(limits.values()), "v", color="#c2570c", label="at most")
    axes.set(xscale="log", xlabel="trials of the search", ylabel="ms a trial, ask + tell + storage", ylim=(0, None))
    axes.set_xticks(list(asked), [f"{count:,}" for count in asked])
    axes.minorticks_off()
    axes.set_title(f"known-latency, SQLite; {about['cpu']}, {about['cpus']} cores", fontsize=9)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160)


def promises(world: str, traces: dict[str, Any]) -> list[header.Promise]:
    """Of the table of one world, at the most sets of weights that it has."""
    weights = max(int(name.split()[-1]) for name in traces["known-latency"] if name.startswith("regret"))
    regret = {name: float(np.median(figures[f"regret at {weights}"])) for name, figures in traces.items()}
    reached = {name: float(np.median(figures["weights to 95 %"])) for name, figures in traces.items()}
    others = [name for name in regret if not name.startswith("known-latency")]
    goals = [header.Promise(f"{world}: regret over GPSampler's", regret["known-latency"] / regret["gp"], high=0.5)]
    goals += [
        header.Promise(f"{world}: regret over that of {name}", regret["known-latency"] / regret[name], high=1.0)
        for name in others
        if name != "gp"
    ]
    ours, theirs = reached["known-latency"], reached["gp"]
    # Where GPSampler never gets there, getting there at all is less than half; where nobody does, nothing is shown.
    share = ours / theirs if np.isfinite(theirs) else 0.0 if np.isfinite(ours) else float("inf")
    goals.append(header.Promise(f"{world}: weights to 95 % over GPSampler's", share, high=0.5))
    return goals


def overhead_goals(asked: dict[int, float]) -> list[header.Promise]:
    return [
        header.Promise(f"ask, tell and storage at {count} trials: ms", asked[count], high=OVERHEAD_MS[count])
        for count in asked
        if count in OVERHEAD_MS
    ]


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--seeds", type=int, help="default: 10; with --quick 3")
    parser.add_argument("--weights", type=int, help="sets of weights a search trains (default: 50; with --quick 30)")
    parser.add_argument("--recorded", type=Path, metavar="FILE", help="what benchmarks/record.py wrote")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only-recorded", action="store_true", help="neither the synthetic world nor what asking costs")
    only.add_argument("--only-overhead", action="store_true", help="what asking costs, and nothing else")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw what asking costs")
    parser.add_argument("--processes", type=int, default=2, help="searches at once (default: 2)")
    arguments = parser.parse_args()
    if arguments.plot is not None and arguments.only_recorded:
        parser.error("--plot draws what asking costs, which --only-recorded leaves out")
    seeds = arguments.seeds or (3 if arguments.quick else 10)
    weights = arguments.weights or (30 if arguments.quick else 50)
    about = header.hardware()
    print(f"{header.heading(about)}\n{seeds} seeds, {weights} sets of weights\n", flush=True)
    tables: dict[str, Any] = {}
    goals: list[header.Promise] = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        worlds_to_run = [] if arguments.only_recorded or arguments.only_overhead else [("synthetic", None)]
        worlds_to_run += (
            [("recorded", arguments.recorded)] if arguments.recorded and not arguments.only_overhead else []
        )
        for name, path in worlds_to_run:
            world = world_of(path)
            count = min(weights, len(world.rows) // 4)  # a search sees a part: 50 of about 200
            size = f"{len(world.rows):,} sets of weights under {len(world.deployments)} pairs"
            print(f"{name}: {size}, hypervolume {world.exhaustive:.4f}", flush=True)
            tables[name] = samplers(path, seeds, count, pool)
            show(tables[name], count)
            goals += promises(name, tables[name])
    if arguments.only_recorded:
        return header.finish(arguments, about, tables, goals)
    tables["overhead"] = overhead((25, 50, 100) if arguments.quick else (25, 50, 100, 250, 500, 1000))
    print("\nms a trial of ask, tell and storage (SQLite), over a search of so many trials")
    print(header.table(("trials", "ms"), [(n, f"{ms:.0f}") for n, ms in tables["overhead"].items()]))
    if arguments.plot is not None:
        plot(tables["overhead"], about, arguments.plot)
    return header.finish(arguments, about, tables, goals + overhead_goals(tables["overhead"]))


if __name__ == "__main__":
    sys.exit(main())
