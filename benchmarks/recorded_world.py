"""The world that `benchmarks/record.py` recorded: real trainings and timings, to be searched again.

    python -m benchmarks.recorded_world FILE           how well latencies of models not measured are predicted from few

Under each deployment n random models of the recording are measured, and `objectives.latency_model` predicts the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import header
from benchmarks.timed_models import MINILM
from objectives.arrays import Floats
from objectives.latency_model import MeasuredTimes, fit_latency
from objectives.passes import Passes
from objectives.roofline import Sizes
from objectives.shapes import Shapes
from search.propose.known_latency import weights_grid
from search.space.deployments import Deployment
from search.space.space import Params, Space
from spaces.knob import Knob
from tests.worlds import World

#: Relative standard error of a recorded time, and how many models are measured.
ERROR, MEASURED = 0.012, (3, 6, 12, 24, 36)


def recorded(path: Path) -> World:
    """The largest whole grid of what `benchmarks/record.py` recorded in `path`.

    Raises:
        ValueError: not even the smallest is whole.
    """
    import record

    first, *entries = record.lines(path)
    deployments = tuple(Deployment(runtime, precision) for runtime, precision in first["deployments"])
    by_settings = {_key(entry["settings"]): entry for entry in entries if len(entry["measured"]) == len(deployments)}
    whole = [n for n in range(len(record.GRIDS)) if all(_key(s) in by_settings for s in record.grid(n))]
    if not whole:
        raise ValueError(f"{path}: {len(by_settings)} sets of weights, and the smallest grid has {len(record.grid(0))}")
    chosen = record.grid(whole[-1])
    predicted = {_key(entry["settings"]): entry for entry in first["predicted"]}
    space = _space(chosen, deployments)
    grid = weights_grid(space)
    order = sorted((tuple(grid.indices({**space.off, **s}).tolist()), _key(s)) for s in chosen)
    entries = [by_settings[key] for _, key in order]
    columns = [[tuple(m["deployment"]) for m in entry["measured"]].index for entry in entries]

    def table(name: str) -> np.ndarray:
        picked = [
            [e["measured"][where(one[:2])][name] for one in deployments]
            for e, where in zip(entries, columns, strict=True)
        ]
        return np.array(picked, dtype=float)

    ms = table("ms")
    if all("speedup" in m for e in entries for m in e["measured"]):  # a machine's own changes of speed left out
        uncompressed = next(e for e in by_settings.values() if e["seconds"].get("weights", 0.0) == 0.0)["measured"][0]
        ms = uncompressed["ms"] * uncompressed["speedup"] / table("speedup")
    return World(
        "recorded",
        space,
        np.array([row for row, _ in order], dtype=np.int64),
        table("accuracy"),
        np.log(ms),
        np.array([predicted[key]["log_ms"] for _, key in order]),
        float(np.median([predicted[key]["sd"] for _, key in order])),
        np.array([float(e["seconds"].get("weights", 0.0)) for e in entries]),
        float(first["constant_guess"]),
    )


def _space(settings: Sequence[Params], deployments: Sequence[Deployment]) -> Space:
    """The space of which the grid of these settings is all."""
    knobs = {name: _knob(name, sorted({float(s[name]) for s in settings})) for name in settings[0]}
    runtimes = tuple(dict.fromkeys(one.runtime for one in deployments))
    precisions = tuple(dict.fromkeys(one.precision for one in deployments))
    knobs["bits.precision"] = Knob("precision", off="fp32", choices=precisions, help="")
    knobs["runtime.name"] = Knob("name", off=runtimes[0], choices=runtimes, help="")
    return Space(knobs, None, tuple(deployments))


def _key(settings: Params) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, float(value)) for name, value in settings.items()))


def _knob(name: str, values: Sequence[float]) -> Knob:
    """A knob over evenly spaced values; the highest is off."""
    step = values[1] - values[0] if len(values) > 1 else None
    whole = all(v.is_integer() for v in values) and max(values) > 1
    low, high = (int(v) if whole else v for v in (values[0], values[-1]))
    return Knob(
        name, off=high, low=low, high=high, step=None if step is None else int(step) if whole else step, help=""
    )


def shape_of(settings: Params) -> Shapes:
    """The sizes of the recorded model (MiniLM) at these settings, which have full rank and full width."""
    hidden, depth = MINILM["hidden_size"], int(settings["distill.layers"])
    if settings["low_rank.rank"] != 1 or settings["distill.width"] != 1:
        raise ValueError(f"rank and width must be 1, got {settings}")
    heads = round(MINILM["num_attention_heads"] * float(settings["prune.heads"])) * 32
    neurons = round(MINILM["intermediate_size"] * float(settings["prune.neurons"]))
    block = [(hidden, heads)] * 3 + [(heads, hidden), (hidden, neurons), (neurons, hidden)]
    return Shapes.of(Sizes(tuple(block * depth), ((hidden, 2),), (heads,) * depth, (hidden,) * 3), hidden)


def predicted(shapes: Shapes, ms: Floats, count: int, seed: int) -> tuple[float, float, float, float]:
    """Mean relative error, mean log density and share inside 95 % of the models left out, and ms to fit."""
    order = np.random.default_rng(seed).permutation(len(ms))
    measured, others = order[:count], order[count:]
    times = MeasuredTimes(shapes[measured], ms[measured], np.full(count, ERROR))
    began = time.perf_counter()
    fit = fit_latency(times, Passes(1, 32.0))
    fit_ms = 1e3 * (time.perf_counter() - began)
    log_ms, sd = fit.predict(shapes[others])
    away, variance = np.log(ms[others]) - log_ms, sd**2 + ERROR**2
    density = -0.5 * (np.log(2 * np.pi * variance) + away**2 / variance)
    inside = np.abs(away) <= 1.96 * np.sqrt(variance)
    return float(np.abs(np.expm1(away)).mean()), float(density.mean()), float(inside.mean()), fit_ms


def main() -> int:
    import record

    parser = header.options(__doc__ or "")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=12)
    arguments = parser.parse_args()
    about = header.hardware()
    first, *entries = record.lines(arguments.file)
    entries = [e for e in entries if len(e["measured"]) == len(first["deployments"])]
    entries = [e for e in entries if e["settings"]["low_rank.rank"] == e["settings"]["distill.width"] == 1]
    shapes = Shapes.from_json([shape_of(e["settings"]).to_json()[0] for e in entries])
    print(
        f"{header.heading(about)}\n{len(entries)} recorded models, {arguments.seeds} draws of those that are measured\n"
    )
    figures: dict[str, Any] = {}
    rows = []
    for runtime, precision in first["deployments"]:
        times = [[m["ms"] for m in e["measured"] if m["deployment"] == [runtime, precision]] for e in entries]
        ms = np.array(times, dtype=float)[:, 0]
        for count in (n for n in MEASURED if n < len(ms)):
            cells = np.array([predicted(shapes, ms, count, seed) for seed in range(arguments.seeds)])
            error, density, inside, fit_ms = figures[f"{runtime}/{precision} {count}"] = cells.mean(0).tolist()
            rows.append(
                (f"{runtime}/{precision}", count, f"{error:.1%}", f"{density:.2f}", f"{inside:.0%}", f"{fit_ms:.0f}")
            )
    print(header.table(("deployment", "measured", "mean error", "log density", "inside 95 %", "ms to fit"), rows))
    return header.finish(arguments, about, figures, [])


if __name__ == "__main__":
    sys.exit(main())
