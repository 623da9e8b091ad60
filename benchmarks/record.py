"""Record what many sets of weights really give, so that samplers can be compared without training any.

    python -m benchmarks.record FILE                 go on with the recording in FILE until it is complete (hours)
    python -m benchmarks.record FILE --minutes 40    for about so long
    python -m benchmarks.record FILE --train 48      only train so many of them, for a machine that is not idle
    python -m benchmarks.record FILE --quick         five minutes

For benchmarks/search_efficiency.py. The embedded default's model, data and recovery. 192 sets of weights (depth, width,
heads, neurons, rank), each under every deployment (runtime and precision) here, in the order of three grids, each of
which contains the one before: 48, 96, 192. A grid that is whole is used; what is beyond it waits. Every set of weights
is one line of JSON, written when all its deployments are measured: a recording that was stopped goes on. Beside it are
the predictions of the table of latencies before any trial.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import header
from benchmarks.lab import Lab, NoLimit
from search.execute.evaluate import Evaluator
from search.front.outcome import LATENCY, SPEEDUP, Outcome
from search.loop import Job
from search.prepare.prepared import Prepared
from search.propose.surrogate.latency_predictor import LatencyPredictor
from search.space.deployments import siblings
from spaces.knob import Value
from spaces.recipe import Recipe

#: (values, how many grids begin with it): the first grid has full rank and full width alone.
LAYERS, HEADS, NEURONS = (2, 4, 6), (0.25, 0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0)
GRIDS: tuple[dict[str, tuple[float, ...]], ...] = (
    {"low_rank.rank": (1.0,), "distill.width": (1.0,)},
    {"low_rank.rank": (0.5, 1.0), "distill.width": (1.0,)},
    {"low_rank.rank": (0.5, 1.0), "distill.width": (0.75, 1.0)},
)
SPACE = (
    "space={distill: {layers: [2, 6], width: [0.75, 1.0]}, prune: {heads: [0.25, 1.0], neurons: [0.25, 1.0]}, "
    "low_rank: {rank: [0.5, 1.0]}, bits: {precision: [fp32, int8, int8-static]}, "
    "runtime: {name: [eager, onnx, openvino]}}"
)


def grid(number: int) -> list[dict[str, Value]]:
    """Settings of all weights of a grid."""
    axes: dict[str, tuple[Any, ...]] = {
        "distill.layers": LAYERS,
        "prune.heads": HEADS,
        "prune.neurons": NEURONS,
        **GRIDS[number],
    }
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def order() -> Iterator[dict[str, Value]]:
    """The uncompressed model, then grid by grid."""
    settings_list: list[dict[str, Value]] = []
    off: dict[str, Value] = {"distill.layers": 6, "prune.heads": 1.0, "prune.neurons": 1.0}
    off |= {"low_rank.rank": 1.0, "distill.width": 1.0}
    for settings in (off, *(s for number in range(len(GRIDS)) for s in grid(number))):
        if settings not in settings_list:
            settings_list.append(settings)
            yield settings


def line_of(settings: dict[str, Value], outcomes: list[Outcome]) -> dict[str, Any]:
    """One set of weights as it is kept."""
    measured = [
        {
            "deployment": [o.recipe.runtime.name, str(o.recipe.params.get("bits.precision", "fp32"))],
            "accuracy": o.value("accuracy"),
            "ms": o.value(LATENCY),
            "speedup": o.value(SPEEDUP),
            "noisy": o.noise,
        }
        for o in outcomes
        if o.status == "complete"
    ]
    first = outcomes[0]
    return {"settings": settings, "measured": measured, "seconds": dict(first.seconds)}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def write_header(path: Path, prepared: Prepared, predictor: LatencyPredictor, about: dict[str, Any]) -> None:
    """The first line: hardware, deployments, and what the table predicts of every set of weights."""
    deployments = [[one.runtime, one.precision] for one in prepared.space.deployments]
    predicted = []
    for settings in order():
        pool = [{**settings, **one.settings} for one in prepared.space.deployments]
        log_ms, sd = predictor.predict(pool)
        predicted.append({"settings": settings, "log_ms": log_ms.tolist(), "sd": sd.tolist()})
    first = {
        "hardware": about,
        "deployments": deployments,
        "constant_guess": prepared.constant_guess,
        "predicted": predicted,
    }
    path.write_text(json.dumps(first, default=str) + "\n")


def recipe_of(prepared: Prepared, settings: dict[str, Value]) -> Recipe:
    return prepared.recipe({**prepared.space.off, **settings, "runtime.name": "eager", "bits.precision": "fp32"})


def train(evaluate: Evaluator, prepared: Prepared, count: int, until: float) -> None:
    """Weights are kept in the store by recipe, so that what is left wants an idle machine for its timings alone."""
    for number, settings in enumerate(itertools.islice(order(), count)):
        if time.monotonic() > until:
            break
        began = time.monotonic()
        evaluate.weights(recipe_of(prepared, settings))
        print(f"trained {number + 1} of {count}: {settings} {time.monotonic() - began:.0f} s", flush=True)


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("file", type=Path)
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"))
    parser.add_argument("--minutes", type=float, help="begin no set of weights after so long")
    parser.add_argument("--train", type=int, metavar="COUNT", help="train the first COUNT, and measure nothing")
    arguments = parser.parse_args()
    minutes = 5.0 if arguments.quick else arguments.minutes
    until = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    about = header.hardware()
    print(header.heading(about), flush=True)
    lab = Lab(arguments.mlruns.absolute(), [0], 1.0, [SPACE])
    prepared = lab.setting(0)
    evaluate = Evaluator(prepared, lambda stage, done: None, NoLimit())
    if arguments.train is not None:
        train(evaluate, prepared, arguments.train, until)
        return 0
    if not arguments.file.exists():
        predictor = LatencyPredictor(prepared, evaluate.measurer)
        write_header(arguments.file, prepared, predictor, about)
    done = [entry["settings"] for entry in lines(arguments.file)[1:]]
    for settings in order():
        if settings in done or time.monotonic() > until:
            continue
        began = time.monotonic()
        recipe = recipe_of(prepared, settings)
        outcomes = list(
            evaluate(Job(recipe, siblings(recipe, prepared.space.deployments), baseline=not recipe.compressed))
        )
        with arguments.file.open("a") as file:
            file.write(json.dumps(line_of(settings, outcomes)) + "\n")
        done.append(settings)
        print(f"{len(done)} of {len(list(order()))}: {settings} {time.monotonic() - began:.0f} s", flush=True)
    print(f"{len(done)} of {len(list(order()))} sets of weights are recorded in {arguments.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
