"""Costs of single matrix products on this device, measured once where a low-rank plan needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from objectives import clock
from objectives.process import Progress
from search.config.schema import RunConfig
from search.prepare.folders import torch_with
from search.space.space import Space
from search.tasks import ALONE, task_of
from spaces.axes.low_rank import FASTER, break_even
from spaces.matmul_cost_model import fit_costs
from spaces.recipe import Step
from spaces.runtime import Context
from spaces.shape import Shape

MATMUL_COSTS_FILE = "products.json"
MATMUL_SECONDS = 3.0  # for which products are timed
#: Ranks that are measured, as shares of break-even.
SHARES = (0.1, 0.25, 0.5, 0.75)

MatrixSizes = list[tuple[int, int]]  # (in, out)


def costs_here(
    config: RunConfig, space: Space, context: Context, data: Path, device: Mapping[str, Any], stage: Callable[..., Path]
) -> str | None:
    """The costs of products on this device (`spaces.matmul_cost_model.Costs.text`); None where no plan needs them.

    `device` is its fingerprint, `stage` makes folders as `search.prepare.runner.Stages` does. Times are those of eager
    float32 products with the threads of candidates, because one set of weights is measured under every runtime and
    precision, and its plan can depend on one of them only.
    """
    knob = space.knobs.get("low_rank.where")
    if space.shape is None or knob is None or FASTER not in knob.choices:
        return None
    sizes, tokens = matrix_sizes(space.shape), tokens_per_call(config, data)
    key = {"device": clock.digest(device), "threads": context.threads, "tokens": tokens, "sizes": sizes}
    folder = stage("products", key, make_products, sizes, tokens, context.device, context.threads, MATMUL_SECONDS)
    return str(json.loads((folder / MATMUL_COSTS_FILE).read_text())["costs"])


def tokens_per_call(config: RunConfig, data: Path) -> int:
    """Tokens of one call of the workload; the median for lengths of the data, or rows of several windows."""
    workload, task = config.workload, task_of(config)
    if workload.length != "data" and task.call == ALONE:
        return workload.batch * workload.length
    rows = task.read(data, "validation")
    starts = np.concatenate([[0], np.cumsum(rows.calls)[:-1]])
    lengths = rows.encoded.lengths if workload.length == "data" else np.full(len(rows.encoded), workload.length)
    return workload.batch * max(1, round(float(np.median(np.add.reduceat(lengths, starts)))))


def matrix_sizes(shape: Shape) -> MatrixSizes:
    """(in, out) of the matrices of the largest block, and of the two factors of each at a few ranks."""
    queries = max(layer.heads for layer in shape.layers) * shape.head_dim * shape.group
    neurons = max(layer.neurons for layer in shape.layers)
    hidden = shape.hidden
    whole = dict.fromkeys([(hidden, queries), (queries, hidden), (hidden, neurons), (neurons, hidden)])
    sizes = dict(whole)
    for a, b in whole:
        for share in SHARES:
            rank = max(1, int(share * break_even(b, a)))
            sizes |= {(a, rank): None, (rank, b): None}
    return list(sizes)


def make_products(
    folder: Path,
    sizes: MatrixSizes,
    tokens: int,
    device: str,
    threads: int,
    seconds: float,
    progress: Progress,
) -> None:
    """Write `products.json`: the fitted costs (`Costs.text`), and the measured times in microseconds."""
    from objectives.matmul_timing import times_us

    torch_with(threads)
    times = times_us(sizes, tokens, device, seconds, partial(progress, "timing matrix products"))
    costs = fit_costs(sizes, times)
    measured = [
        {"in": size[0], "out": size[1], "us": round(time, 3), "fitted_us": round(costs.of(*size), 3)}
        for size, time in zip(sizes, times, strict=True)
    ]
    about = {"costs": costs.text(), "tokens": tokens, "threads": threads, "measured": measured}
    (folder / MATMUL_COSTS_FILE).write_text(json.dumps(about, indent=1))


def priced(steps: Sequence[Step], costs: str | None) -> tuple[Step, ...]:
    """`steps` with the measured costs in the low-rank step, so that the recipe determines its plan."""
    return tuple(
        Step(step.name, {**step.settings, "costs": costs})
        if costs is not None and step.name == "low_rank" and step.settings.get("where") == FASTER
        else step
        for step in steps
    )
