"""Whether rungs, rejection and probes pay where a training costs ten minutes and more, and a look seconds.

    python benchmarks/economy.py --recorded FILE           ten seeds, trainings of 600 and of 1,800 s
    python benchmarks/economy.py --recorded FILE --quick   three seeds, trainings of 600 s, the recorded world alone
    python benchmarks/economy.py --recorded FILE --check   exit 1 where a quarter of the seconds is not saved

FILE is what benchmarks/record.py wrote. The worlds are those of benchmarks/truths.py, with other costs: trainings keep
their proportions, and the median of them takes so many seconds; a look takes five. What lower rungs see is as the world
has it: recorded before and after a quarter of the recovery, or made up (nearly in order before it, biased and noisy).
On the recorded world a seed deals the errors of the recorded predictions anew among the sets of weights; on the
synthetic one it draws what the sampler compares.

Seconds are those of training and of looking until the front has 90, 95 or 98 % of the hypervolume of everything there
is. "all": from the most frequent class's accuracy, by the set of weights. "run": of models that keep what a run asks
them to keep, by the second of training. A ratio is that of one seed's two searches. Median over seeds and its 95 %
interval (below six seeds, the least and the most). "wrongly": rejected, though it would have added to the front.

Probes: the sampler has a table of latencies as a run has it, made of what its trials measured, alone or with the times
of untrained models before the first trial, which take eight seconds a deployment. "exact" is a table without an error.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import header
import numpy as np
import optuna
import worlds
from search_efficiency import world_of

from objectives.latency_table import LatencyTable
from objectives.shapes import Shapes
from objectives.stats import median_interval
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome
from search.propose.ladder import Economy
from search.space.sizes import Outline, shapes_of
from search.space.space import Params
from spaces.shape import LayerShape, Shape

LOOK_S = 5.0
SHARES = (0.0, 0.25, 1.0)
AUDIT = 0.1  # as a run has it
ECONOMIES: dict[str, Economy | None] = {
    "neither": None,
    "rungs and rejection": Economy(SHARES, audit=AUDIT),
    "rungs": Economy(SHARES, reject=False),
    "one rung, before training": Economy((0.0, 1.0), reject=False),
    "rejection": Economy((1.0,), audit=AUDIT),
}
EXACT = "exact"
#: Untrained models in the table before the first trial.
PROBES = {"no probes": 0, "12 probes": 12, "24 probes": 24}
PROBE_S = 8.0  # one under one deployment: 559 s for 24 under 3 (results/2026-11-25-search/latency_table.txt)
FRESH = 0.01  # relative, between fresh processes of one model
LOOKED_AT = 400  # settings among which the next probe is sought
REACHED = (0.90, 0.95, 0.98)
JUDGED = 1  # of REACHED: 95 %
FEWEST = 6  # seeds that an interval of the median needs
SAVED = 0.75  # of the seconds: what is left where a quarter is saved
#: Sets of weights that a search trains in full.
WEIGHTS = {("recorded", "all"): 24, ("recorded", "run"): 24, ("synthetic", "all"): 32, ("synthetic", "run"): 56}
AIMS = ("all", "run")
COUNTED = ("looks", "rejected", "lost", "audits")
#: A model that has the worlds' latencies: MiniLM for six layers, BERT for twelve.
HIDDEN = {6: 384, 12: 768}


@dataclass(frozen=True)
class Case:
    """One search: a row of a table, and its seed."""

    kind: str  # of ECONOMIES, or of PROBES
    aims: str  # "all" or "run"
    training_s: float
    seed: int


def priced(world: worlds.World, training_s: float, seed: int) -> worlds.World:
    """The world where the median training takes so long."""
    trained = world.seconds[world.seconds > 0]
    made = replace(
        world,
        seconds=world.seconds * training_s / float(np.median(trained)),
        look=np.full(len(world.look), LOOK_S),
    )
    if world.name == "recorded":
        order = np.random.default_rng(seed).permutation(len(world.rows))
        made.predicted = world.costs + (world.predicted - world.costs)[order]
    return made


class Table:
    """Predictions of a table of latencies that holds `probes` models and whatever was observed."""

    stored_settings: tuple[Params, ...] = ()

    def __init__(self, world: worlds.World, folder: Path, probes: int, by_the_second: bool, seed: int) -> None:
        self._world, self._by_the_second = world, by_the_second
        self.deployments = world.deployments
        self._names = ["/".join(deployment) for deployment in self.deployments]
        self._shapes = shapes_in(world)
        self._table = LatencyTable(folder, {"batch": 1, "length": 32})
        self._rng = rng = np.random.default_rng(seed)
        for number in range(probes):
            places = rng.permutation(len(world.rows))[:LOOKED_AT]
            if number % 2 == 0 and number > 0:  # in turn the one of which least is known, and one by lot
                places = places[[int(np.argmax((self._predicted(places)[1] ** 2).sum(1)))]]
            place = world.uncompressed if number == 0 else int(places[0])
            seen = world.costs[place] + rng.normal(0, FRESH, len(self._names))
            self._add(place, dict(zip(self._names, np.exp(seen).tolist(), strict=True)))

    def costs(self, pool: Sequence[Params]) -> tuple[np.ndarray, np.ndarray]:
        log_ms, error = self._predicted(self._world.of(pool))
        return log_ms, error.mean(1)

    def predicted(self, pool: Sequence[Params]) -> np.ndarray:
        return self._predicted(self._world.of(pool))[0]

    def seconds(self, pool: Sequence[Params]) -> np.ndarray:
        return self._world.seconds[self._world.of(pool)] if self._by_the_second else np.ones(len(pool))

    def observe(self, outcome: Outcome, _: Front) -> None:
        """An observer: what a trial measured is in the table."""
        if outcome.status == "complete":
            name = f"{outcome.recipe.runtime.name}/{outcome.recipe.params.get('bits.precision', 'fp32')}"
            ms = outcome.value(LATENCY) * float(np.exp(self._rng.normal(0, FRESH)))
            self._add(self._world.place(outcome.recipe.params), {name: ms})

    def _add(self, place: int, ms: dict[str, float]) -> None:
        for name, value in ms.items():
            self._table.add(name, self._shapes[[place]], value, FRESH)

    def _predicted(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, P) log ms and its error."""
        columns = [self._table.predict(name, self._shapes[places]) for name in self._names]
        return np.stack([c[0] for c in columns], axis=1), np.stack([c[1] for c in columns], axis=1)


def shapes_in(world: worlds.World) -> Shapes:
    """The sizes of every set of weights, those of a BERT."""
    depth = int(float(world.space.off["distill.layers"]))
    hidden = HIDDEN[depth]
    layers = (LayerShape(heads=12, neurons=4 * hidden),) * depth
    shape = Shape(hidden, hidden // 12, 1, layers, prunable_heads=True, prunable_hidden=True)
    roles = frozenset(("query", "key", "value", "output", "up", "down"))
    outline = Outline(biased=roles, block_vectors=4, outer_vectors=2, row_matrices=((hidden, hidden), (hidden, 2)))
    pool = [world.grid.settings(row) for row in world.rows]
    return shapes_of(replace(world.space, shape=shape), pool, outline)


def searched(path: Path | None, case: Case) -> dict[str, Any]:
    """The figures of one search."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    world = priced(world_of(path), case.training_s, case.seed)
    by_the_second = case.aims == "run"
    best = world.exhaustive_kept if by_the_second else world.exhaustive
    run = partial(
        worlds.search,
        world,
        "known-latency",
        case.seed,
        WEIGHTS[world.name, case.aims],
        ECONOMIES.get(case.kind),
        shipped=by_the_second,
        goal=REACHED[-1] * best,
    )
    before_s = 0.0
    probes = PROBES.get(case.kind)
    if case.kind == EXACT:
        world.predicted, world.error = world.costs, FRESH
    if probes is None:
        trace = run()
    else:
        before_s = probes * len(world.deployments) * PROBE_S
        with tempfile.TemporaryDirectory() as folder:
            table = Table(world, Path(folder), probes, by_the_second, case.seed)
            trace = run(cost_model=table, observers=(table.observe,))
    reached = trace.kept if by_the_second else trace.hypervolume
    first = [next((i for i, h in enumerate(reached) if h >= goal * best), None) for goal in REACHED]
    return {
        "seconds": [float("inf") if i is None else round(before_s + trace.trained_s[i], 1) for i in first],
        "weights": first,
        "in_the_end": round(reached[-1] / best, 4),
        "looks": len(trace.looks),
        "rejected": trace.rejected,
        "lost": trace.lost,
        "audits": trace.audits,
    }


def middle(values: Sequence[float], form: str) -> str:
    """Median and its interval, or range; "never" where most seeds never get there."""
    median = float(np.median(values)) if values else np.inf
    if np.isinf(median):
        return "never"
    low, high = median_interval(np.array(values)) if len(values) >= FEWEST else (min(values), max(values))
    return f"{form.format(median)} ({form.format(low)} to {form.format(high)})"


def ratios(found: Sequence[dict[str, Any]], beside: Sequence[dict[str, Any]], goal: int) -> list[float]:
    """By seed, infinite where only the other gets there; seeds of which neither does are left out."""
    pairs = [(a["seconds"][goal], b["seconds"][goal]) for a, b in zip(found, beside, strict=True)]
    return [a / b for a, b in pairs if not np.isinf(a) or not np.isinf(b)]


def compared(
    name: str, path: Path | None, kinds: Sequence[str], trainings: Sequence[float], seeds: int, pool: Any
) -> tuple[dict[str, Any], list[header.Promise]]:
    """All searches of one table; the first of `kinds` is what the others are held against."""
    cases = [Case(k, aims, s, seed) for aims in AIMS for s in trainings for k in kinds for seed in range(seeds)]
    found = dict(zip(cases, pool.map(partial(searched, path), cases), strict=True))
    rows, kept, promises = [], {}, []
    goals = range(len(REACHED))
    for aims, training_s in itertools.product(AIMS, trainings):
        base = [found[Case(kinds[0], aims, training_s, seed)] for seed in range(seeds)]
        for kind in kinds:
            mine = [found[Case(kind, aims, training_s, seed)] for seed in range(seeds)]
            kept[f"{aims}, {training_s:g} s, {kind}"] = mine
            seconds = [middle([one["seconds"][goal] for one in mine], "{:,.0f}") for goal in goals]
            over = [middle(ratios(mine, base, goal), "{:.2f}") for goal in goals[:-1]]
            few = f"{np.median([one['weights'][JUDGED] or np.inf for one in mine]):.0f}"
            counts = [f"{sum(one[what] for one in mine) / seeds:.1f}" for what in COUNTED]
            rows.append((f"{aims}, {training_s:,.0f} s", kind, *seconds, *over, few, *counts))
            if kind != kinds[0]:
                what = f"{name}, {aims}, {training_s:,.0f} s: seconds of {kind} over {kinds[0]}"
                promises.append(header.Promise(what, float(np.median(ratios(mine, base, JUDGED))), high=SAVED))
    told = [f"s to {goal:.0%}" for goal in REACHED] + [f"over the first's, {goal:.0%}" for goal in REACHED[:-1]]
    columns = ("aims, training", "what is on", *told, "weights to 95%", "looks", "rejected", "wrongly", "audits")
    print("\n" + header.table(columns, rows), flush=True)
    return kept, promises


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--recorded", type=Path, metavar="FILE", required=True, help="what benchmarks/record.py wrote")
    parser.add_argument("--seeds", type=int, help="default: 10; with --quick 3")
    parser.add_argument("--only", choices=("economy", "probes"), help="one of the two tables")
    parser.add_argument("--processes", type=int, default=2, help="searches at once (default: 2)")
    arguments = parser.parse_args()
    seeds = arguments.seeds or (3 if arguments.quick else 10)
    trainings = (600.0,) if arguments.quick else (600.0, 1800.0)
    about = header.hardware()
    print(f"{header.heading(about)}\n{seeds} seeds; looks of {LOOK_S:g} s", flush=True)
    places: list[tuple[str, Path | None]] = [("recorded", arguments.recorded)]
    places += [] if arguments.quick else [("synthetic", None)]
    kept: dict[str, Any] = {}
    promises: list[header.Promise] = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for name, path in places:
            world = world_of(path)
            size = f"{len(world.rows):,} sets of weights under {len(world.deployments)} deployments"
            most = ", ".join(f"{WEIGHTS[name, aims]} ({aims})" for aims in AIMS)
            tables = {"economy": (tuple(ECONOMIES), trainings), "probes": ((*PROBES, EXACT), trainings[:1])}
            for table, (kinds, costs) in tables.items():
                if arguments.only in (None, table):
                    print(f"\n{name}, {table}: {size}; at most {most} are trained")
                    kept[f"{name}, {table}"], held = compared(name, path, kinds, costs, seeds, pool)
                    promises += held
    return header.finish(arguments, about, kept, promises)


if __name__ == "__main__":
    sys.exit(main())
