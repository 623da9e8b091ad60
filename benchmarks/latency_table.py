"""How well the time of a model is known before it is built: the table of latencies against fresh measurements.

    python benchmarks/latency_table.py --mlruns DIR              24 probes, then 50 recipes it has not seen
    python benchmarks/latency_table.py --mlruns DIR --quick      10 probes, 8 recipes
    python benchmarks/latency_table.py --mlruns DIR --check      exit 1 where a promised figure is missed

On the embedded default: the table is filled with untrained copies of the model, each timed for a second under every
pair of runtime and precision; then random recipes, untrained too, are timed the same way and held against what was
predicted of them. All of them are timed, and then all once more: what the two times differ by (A/A) is what no
prediction can do better than. All times are beside the uncompressed model's, and counted by what is known of that one,
because machines change their speed; what they differ by as the clock gave them is there too.

Promised, for every pair: a mean absolute error of at most 5 % and Kendall's tau of at least 0.95; of all predictions at
least 90 % within the table's own 95 % interval; one prediction in under a millisecond, and 5,000 in under 0.1 s.

What is measured is kept in DIR (latency-table/), so a run that was stopped goes on. Needs an idle machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import header
import lab
import numpy as np

from search.front.outcome import LATENCY
from search.propose.surrogate.latency_predictor import LatencyPredictor, error_of
from search.space.space import random_settings
from search.store import atomic
from spaces.errors import Infeasible
from spaces.knob import Value

#: (probes, recipes).
FULL, BRIEF = (24, 50), (10, 8)
MAPE, TAU, COVERED, ONE_MS, MANY_MS = 0.05, 0.95, 0.90, 1.0, 100.0
MANY = 5000
SEED = 20_000  # of the recipes: not that of the probes

Params = dict[str, Value]
Seen = dict[str, dict[str, list[list[float]]]]  # by recipe and pair: what `timed` found, twice


def under(params: Mapping[str, Value], pair: lab.Deployment) -> Params:
    return {**params, "runtime.name": pair[0], "bits.precision": pair[1]}


def unseen(known: LatencyPredictor, space: Any, deployments: Sequence[lab.Deployment], count: int) -> list[Params]:
    """Random settings of the space, none of which the table has measured, and no two of one shape."""
    rng = np.random.default_rng(SEED)
    found: dict[str, Params] = {}
    while len(found) < count:
        params = random_settings(space, rng)
        shape = known.shapes([params])
        if not any(known.table.measured("/".join(pair), shape)[0] for pair in deployments):
            found.setdefault(json.dumps(shape.to_json()), params)
    return list(found.values())


def timed(known: LatencyPredictor, setting: Any, params: Params, pair: lab.Deployment) -> list[float]:
    """[ms, relative standard error, ms as timed] in a fresh pair of processes; empty where the pair cannot run it."""
    recipe = replace(setting.recipe(under(params, pair)), recover={})
    try:
        found = known.timed(recipe)[LATENCY]
    except Infeasible:
        return []
    return [found.value, error_of(found), float(found.conditions["as_timed"])]


def seen_of(
    known: LatencyPredictor, setting: Any, recipes: Sequence[Params], deployments: Sequence[lab.Deployment], kept: Path
) -> Seen:
    """Every recipe timed once, and then every one again; from the file what it holds."""
    seen: Seen = json.loads(kept.read_text()) if kept.exists() else {}
    for again in range(2):
        for number, params in enumerate(recipes):
            of_recipe = seen.setdefault(json.dumps(known.shapes([params]).to_json()), {})
            for pair in deployments:
                times = of_recipe.setdefault("/".join(pair), [])
                if len(times) == again:
                    say(f"{'again, ' * again}recipe {number + 1}/{len(recipes)} under {'/'.join(pair)}")
                    found = timed(known, setting, params, pair)
                    times += [found] if found else []
                    atomic.write_text(kept, json.dumps(seen))
    return seen


def judged(known: LatencyPredictor, recipes: Sequence[Params], seen: Seen, pair: lab.Deployment) -> dict[str, Any]:
    """Of one pair: predictions against the first process's times, and the second's against the first's."""
    from scipy.stats import kendalltau

    found = [seen[json.dumps(known.shapes([params]).to_json())]["/".join(pair)] for params in recipes]
    there = [i for i, both in enumerate(found) if len(both) == 2]
    log_ms, sd = known.predict([under(recipes[i], pair) for i in there])
    times = np.array([found[i] for i in there])  # (recipes, 2 processes, 3)
    seen_log = np.log(times[:, 0, 0])
    off = log_ms - seen_log
    return {
        "pair": "/".join(pair),
        "recipes": len(there),
        "entries": known.table.entries("/".join(pair)),
        "from_ms": float(times[:, 0, 0].min()),
        "to_ms": float(times[:, 0, 0].max()),
        "mape": float(np.abs(np.expm1(off)).mean()),
        "worst": float(np.abs(np.expm1(off)).max()),
        "bias": float(off.mean()),
        "tau": float(kendalltau(log_ms, seen_log).statistic),
        "covered": float((np.abs(off) <= 1.96 * np.hypot(sd, times[:, 0, 1])).mean()),
        "sd": float(sd.mean()),
        "again": float(np.abs(times[:, 1, 0] / times[:, 0, 0] - 1).mean()),
        "again_tau": float(kendalltau(times[:, 1, 0], times[:, 0, 0]).statistic),
        "clock": float(np.abs(times[:, 1, 2] / times[:, 0, 2] - 1).mean()),
    }


def row(found: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(found["pair"]),
        str(found["entries"]),
        str(found["recipes"]),
        f"{found['from_ms']:.2f} to {found['to_ms']:.2f}",
        f"{found['mape']:.1%}",
        f"{found['worst']:.1%}",
        f"{found['bias']:+.1%}",
        f"{found['tau']:.3f}",
        f"{found['covered']:.0%}",
        f"{found['sd']:.1%}",
        f"{found['again']:.1%}",
        f"{found['again_tau']:.3f}",
        f"{found['clock']:.1%}",
    )


def shortest_ms(known: LatencyPredictor, pool: Sequence[Params], times: int) -> float:
    """Of predicting a pool from its settings: what disturbs only slows."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        known.predict(pool)
        taken.append((time.perf_counter() - began) * 1e3)
    return min(taken)


def say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"), help="where teacher and times are kept")
    parser.add_argument("--probes", type=int, help="models that the table is filled with (default: 24, quick: 10)")
    parser.add_argument("--recipes", type=int, help="models that it is held against (default: 50, quick: 8)")
    arguments = parser.parse_args()
    probes, count = BRIEF if arguments.quick else FULL
    probes, count = arguments.probes or probes, arguments.recipes or count
    about = header.hardware()
    bench = lab.Lab(arguments.mlruns, (0,), epochs=1.0)
    setting, measurer = bench.setting(0), bench.evaluator(0).measurer
    deployments, folder = setting.space.deployments, arguments.mlruns / "latency-table"
    known = LatencyPredictor(setting, measurer, folder)
    fill_s = lab.timed(fill, known, deployments, probes)
    recipes = unseen(known, setting.space, deployments, count)
    seen = seen_of(known, setting, recipes, deployments, folder / f"recipes-{known.table.path.stem}.json")
    figures = [judged(known, recipes, seen, pair) for pair in deployments]
    pool = [random_settings(setting.space, np.random.default_rng(i)) for i in range(MANY)]
    pool = [under(params, deployments[i % len(deployments)]) for i, params in enumerate(pool)]
    one, many = shortest_ms(known, pool[:1], 200), shortest_ms(known, pool, 10)
    say("")
    print(f"{header.heading(about)}\nMiniLM (6 layers), batch 1, length 32; the table was filled in {fill_s:.0f} s\n")
    columns = (
        "pair",
        "entries",
        "recipes",
        "ms",
        "error",
        "worst",
        "bias",
        "tau",
        "covered",
        "said",
        "A/A",
        "A/A tau",
        "by the clock",
    )
    print(header.table(columns, [row(found) for found in figures]))
    print(f"\nerror: mean absolute, of what was predicted; A/A: of the second time against the first\n"
          f"one prediction {one:.2f} ms, {MANY} of them {many:.1f} ms")  # fmt: skip
    covered = float(np.average([f["covered"] for f in figures], weights=[f["recipes"] for f in figures]))
    promises = [header.Promise(f"{f['pair']}: mean absolute error", f["mape"], high=MAPE) for f in figures]
    promises += [header.Promise(f"{f['pair']}: Kendall's tau", f["tau"], low=TAU) for f in figures]
    promises += [
        header.Promise("share of times within the table's own 95 % interval", covered, low=COVERED),
        header.Promise("one prediction, ms", one, high=ONE_MS),
        header.Promise(f"{MANY} predictions, ms", many, high=MANY_MS),
    ]
    return header.finish(
        arguments, about, {"deployments": figures, "one_ms": one, "many_ms": many, "seen": seen}, promises
    )


def fill(known: LatencyPredictor, deployments: Sequence[lab.Deployment], probes: int) -> None:
    """Up to `probes` models in the table, those of earlier runs among them."""
    while (there := max(known.table.entries("/".join(pair)) for pair in deployments)) < probes:
        say(f"probe {there + 1}/{probes}")
        if not known.fill(3600, deployments, most=1):
            break


if __name__ == "__main__":
    sys.exit(main())
