"""How a service keeps its latency objective: policies that choose the variant for each batch, in a simulation.

    python -m benchmarks.serving                        ten seeds, ramp, bursts, step, steady load and a made-up trace
    python -m benchmarks.serving --trace FILE.parquet   a real trace: columns `seconds`, `context_tokens`; or .csv
    python -m benchmarks.serving --front FILE.json      another front than the stored one of the default run
    python -m benchmarks.serving --export DIR           then this exported front, served (real_service.py)
    python -m benchmarks.serving --stages overload soak --export DIR --join FILE
                                                        these stages alone; FILE keeps and shows those of other runs
    python -m benchmarks.serving --quick                two seeds, fewer loads
    python -m benchmarks.serving --check                exit 1 where a promised figure is missed

The stage `simulation` takes 7 minutes on two cores (1 with `--quick`), those of the running service as real_service.py
says. The simulation runs the program's own queue, admission and controller; only calls are made up: the front's median
times in a linear model of the batch, times a speed of the machine (0.9 to 1.3) and of each variant that no
controller is told, with log-normal noise of the variant's own tail, stalls and a fixed cost a call. Loads are multiples
of the capacity of the most accurate variant in full batches. Shapes: ramp from 0.2x to 3x, bursts of 3x over 0.5x, a
step from 0.5x to 2.5x, steady 2.5x. The trace is compressed until its mean is the load, its gaps in proportion.

Attainment is the share of offered requests that are answered within the objective; effective accuracy is the mean over
all offered requests, with one that is refused, dropped or late counted as wrong. The bound is what no schedule exceeds
that knows all arrivals (tests/worlds/oracle.py), so the gap to the best schedule is smaller than the gap to it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import header, real_service
from benchmarks.served_front import Bench
from benchmarks.stages import Results, StageResult, join, table
from benchmarks.stages import promises as promises_of
from search.serve.batching import Limits, limits_for
from search.serve.policy import BacklogFit, Fixed, Policy
from search.serve.variants import Variant, from_front, hull
from tests.worlds.arrivals import SHAPES, Arrivals, made_up_trace, read_trace, scaled, shaped
from tests.worlds.oracle import upper_bound
from tests.worlds.policies import SlackFit, Thresholds
from tests.worlds.serving import Machine, simulate

FRONT = header.ROOT / "benchmarks" / "results" / "2026-11-27-default-run" / "front.json"
LOADS, QUICK_LOADS = (0.2, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0), (1.0, 2.5)
SIMULATION = "simulation"
ACCURATE, FASTEST, OURS, BOUND = "most accurate", "fastest", "ours", "bound"
#: Rows of the shapes are as long as those that the front was measured with; the trace's are in proportion.
DURATION_S = 10.0
REQUESTS = 6000


@dataclass(frozen=True)
class Figures:
    """Means over the requests of one run."""

    attainment: float
    effective: float
    switches: float = 0.0
    refused: float = 0.0  # share of the offered
    p99_ms: float = 0.0


def policies(variants: tuple[Variant, ...], slo_s: float) -> dict[str, Policy]:
    return {
        ACCURATE: Fixed(variants[-1].number),
        FASTEST: Fixed(variants[0].number),
        "queue depth": Thresholds(slo_s),
        "SlackFit": SlackFit(),
        OURS: BacklogFit(),
    }


def arrivals_of(
    case: str, trace: Arrivals, variants: tuple[Variant, ...], limits: Limits, machine: Machine
) -> Arrivals:
    """The arrivals of a case ("ramp", "trace 2.5x") on this machine; the machine's seed is theirs."""
    length, slowest = variants[-1].length, variants[-1]
    if case in SHAPES:
        capacity = machine.capacity(slowest, limits.max_batch, [limits.padded(length)])
        return shaped(case, capacity, DURATION_S, length, machine.seed)
    load = float(case.removeprefix("trace ").removesuffix("x"))
    unit = scaled(trace, 1.0, length, machine.seed, REQUESTS)
    capacity = machine.capacity(slowest, limits.max_batch, [limits.padded(n) for n in unit.lengths.tolist()])
    return Arrivals(unit.times_s / (load * capacity), unit.lengths)


def run(
    case_and_seed: tuple[str, int], trace: Arrivals, variants: tuple[Variant, ...], limits: Limits
) -> dict[str, Figures]:
    """All policies on the same arrivals and machine, and the bound."""
    case, seed = case_and_seed
    machine = Machine(seed)
    arrivals = arrivals_of(case, trace, variants, limits, machine)
    figures: dict[str, Figures] = {}
    for name, policy in policies(variants, limits.slo_s).items():
        result = simulate(arrivals, variants, policy, limits, machine)
        p99 = 1e3 * float(np.quantile(result.latencies_s, 0.99))
        share = (result.refused + result.dropped) / result.offered
        figures[name] = Figures(result.attainment, result.effective_quality, result.switches, share, p99)
    effective, answered = upper_bound(arrivals, variants, limits, machine)
    figures[BOUND] = Figures(answered, effective)
    return figures


def mean(runs: list[Figures], field: Callable[[Figures], float]) -> float:
    return float(np.mean([field(figures) for figures in runs]))


def rows_of(case: str, runs: list[dict[str, Figures]]) -> list[tuple[str, ...]]:
    rows = []
    for name in runs[0]:
        of = [one[name] for one in runs]
        worst = min(figures.attainment for figures in of)
        rows.append(
            (
                case,
                name,
                f"{100 * mean(of, lambda f: f.attainment):.2f}",
                f"{100 * worst:.2f}",
                f"{100 * mean(of, lambda f: f.effective):.2f}",
                *(
                    ("", "", "")
                    if name == BOUND
                    else (
                        f"{mean(of, lambda f: f.switches):.0f}",
                        f"{100 * mean(of, lambda f: f.refused):.2f}",
                        f"{mean(of, lambda f: f.p99_ms):.1f}",
                    )
                ),
            )
        )
    return rows


def promises(by_case: Mapping[str, list[dict[str, Figures]]]) -> list[header.Promise]:
    """The goals, at 2.5 times the capacity of the most accurate variant and on every shape."""
    hard = [case for case in by_case if case in SHAPES or case == "trace 2.5x"]

    def over(case: str, name: str, field: Callable[[Figures], float]) -> float:
        return mean([one[name] for one in by_case[case]], field)

    goals = [
        header.Promise(
            "most accurate alone: best attainment, % (it breaks)",
            max(100 * over(case, ACCURATE, lambda f: f.attainment) for case in hard),
            high=90,
        )
    ]
    for case in hard:
        attained = 100 * over(case, OURS, lambda f: f.attainment)
        ours = 100 * over(case, OURS, lambda f: f.effective)
        fastest, bound = (100 * over(case, name, lambda f: f.effective) for name in (FASTEST, BOUND))
        goals += [
            header.Promise(f"{case}: attainment, %", attained, low=98),
            header.Promise(f"{case}: effective accuracy over the fastest, points", ours - fastest, low=3),
            header.Promise(f"{case}: effective accuracy under the bound, points", bound - ours, high=1, stretch=True),
        ]
    return goals


def simulation(arguments: argparse.Namespace, trace: Arrivals) -> StageResult:
    """All policies in the simulation."""
    limits = Limits(slo_s=arguments.slo_ms / 1e3)
    variants = hull(from_front(json.loads(arguments.front.read_text())), limits.max_batch)
    limits = limits_for(variants, limits)
    seeds = arguments.seeds or (2 if arguments.quick else 10)
    loads = arguments.loads or (QUICK_LOADS if arguments.quick else LOADS)
    cases = [*(f"trace {load:g}x" for load in loads), *SHAPES]
    jobs = [(case, seed) for case in cases for seed in range(seeds)]
    with ProcessPoolExecutor(arguments.workers) as pool:
        results = list(pool.map(partial(run, trace=trace, variants=variants, limits=limits), jobs))
    by_case = {case: [r for (c, _), r in zip(jobs, results, strict=True) if c == case] for case in cases}
    columns = ("load", "policy", "in time %", "worst seed", "effective %", "switches", "not taken %", "p99 ms")
    text = (
        f"{arguments.front.name}: variants {', '.join(str(v.number) for v in variants)}, fastest first; "
        f"objective {arguments.slo_ms:g} ms; {seeds} seeds; "
        f"trace {arguments.trace.name if arguments.trace else 'made up'}, {REQUESTS} requests of it a seed\n"
        + header.table(columns, [row for case in cases for row in rows_of(case, by_case[case])])
    )
    return StageResult(by_case, text, promises(by_case))


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--front", type=Path, default=FRONT, help="a front.json")
    parser.add_argument("--export", type=Path, metavar="DIR", help="an exported front of question answering to serve")
    parser.add_argument("--served-slo-ms", type=float, default=200.0, help="the objective of the running service")
    parser.add_argument("--trace", type=Path, help="arrivals of a real service; made up where none is given")
    parser.add_argument("--slo-ms", type=float, default=25.0, help="the latency objective")
    parser.add_argument("--loads", type=float, nargs="+", help="of the trace, as multiples of the capacity")
    parser.add_argument("--seeds", type=int, default=None)
    names = (SIMULATION, *real_service.STAGES)
    parser.add_argument("--stages", nargs="+", choices=names, help="default: the simulation, with --export all")
    parser.add_argument("--join", type=Path, metavar="FILE", help="keep results here, and show those of other runs too")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    stages = arguments.stages or (names if arguments.export else names[:1])
    if arguments.export is None and set(stages) - {SIMULATION}:
        parser.error(f"--stages: {', '.join(sorted(set(stages) - {SIMULATION}))} must have --export DIR")
    about = header.hardware()
    print(header.heading(about), flush=True)
    trace = made_up_trace() if arguments.trace is None else read_trace(arguments.trace)
    figures, promised, results = dict[str, object](), list[header.Promise](), Results()
    bench = Bench(arguments.export, arguments.served_slo_ms, arguments.quick) if set(stages) - {SIMULATION} else None
    for name in stages:
        if name == SIMULATION:
            result = simulation(arguments, trace)
        else:
            assert bench is not None
            result = real_service.STAGES[name](bench, trace)
        print(f"\n{result.text}", flush=True)
        figures[name], promised = result.figures, promised + result.promises
        if arguments.join is not None:
            results = join(arguments.join, name, about, result)
    if results:
        print(f"\n{table(results)}")
        promised = promises_of(results)
    return header.finish(arguments, about, figures, promised)


if __name__ == "__main__":
    sys.exit(main())
