"""The world that `benchmarks/record.py` recorded: real trainings and timings, to be searched again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import header  # noqa: F401 - puts the project on the path
import numpy as np
from worlds import World

from search.propose.known_latency import weights_grid
from search.space.deployments import Deployment
from search.space.space import Params, Space
from spaces.knob import Knob


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
