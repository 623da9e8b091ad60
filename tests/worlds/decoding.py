"""A world of a language model: the times of a generation and its parts follow from bytes and operations."""

from __future__ import annotations

import numpy as np

from objectives.arrays import Floats
from objectives.passes import Passes
from objectives.shapes import Shapes, operations_of
from search.front.outcome import LATENCY
from search.propose.known_latency import weights_grid
from search.propose.surrogate.step_reads import StepReads
from search.space.deployments import Deployment
from search.space.sizes import Outline, shapes_of
from search.space.space import Space
from spaces.knob import Knob
from spaces.runtime import Context
from spaces.shape import LayerShape, Shape
from tests.worlds.truth import World, damage

PROMPT, NEW_TOKENS = 128, 32
CONDITIONS = {
    "device": "cpu",
    "fingerprint": "decoding",
    "threads": 2,
    "batch": 1,
    "length": PROMPT,
    "new_tokens": NEW_TOKENS,
}
CONTEXT = Context(threads=2, cache_tokens=PROMPT + NEW_TOKENS)
SHAPE = Shape(
    hidden=512,
    head_dim=64,
    group=2,
    layers=(LayerShape(heads=4, neurons=1536),) * 12,
    prunable_heads=True,
    prunable_hidden=True,
)
OUTLINE = Outline(gates=2, tables=((8192, 512),), row_matrices=((512, 8192),), tied=True)
DEPLOYMENTS = tuple(
    Deployment(*pair) for pair in (("eager", "fp32"), ("onnx", "fp32"), ("onnx", "int8"), ("onnx", "int4"))
)
KNOBS = {
    "distill.layers": Knob("layers", off=12, low=4, high=12, step=2, help=""),
    "prune.heads": Knob("heads", off=1.0, low=0.5, high=1.0, step=0.25, help=""),
    "prune.neurons": Knob("neurons", off=1.0, low=0.25, high=1.0, step=0.25, help=""),
    "low_rank.rank": Knob("rank", off=1.0, low=0.4, high=1.0, step=0.2, help=""),
    "bits.precision": Knob("precision", off="fp32", choices=("fp32", "int8", "int4"), help=""),
    "runtime.name": Knob("name", off="eager", choices=("eager", "onnx"), help=""),
}
#: Ms of a block, bytes a ms of the memory, and operations a ms.
OVERHEAD_MS, BANDWIDTH, PEAK = {"eager": 0.15, "onnx": 0.03}, 20e6, 200e6
LOST = {"fp32": 0.0, "int8": 0.004, "int4": 0.02}


def first_and_later_ms(shapes: Shapes, deployment: Deployment) -> tuple[Floats, Floats]:
    """(N,) ms to the first token, and (N,) ms of each later one."""
    each = 0.2 + OVERHEAD_MS[deployment.runtime] * shapes.blocks
    step = StepReads(SHAPE, CONTEXT).added(shapes, deployment.settings, Passes.of("tpot_ms", CONDITIONS))
    reading = (step.step_bytes + 2 * step.cache_bytes) / BANDWIDTH
    return each + operations_of(shapes, 1, PROMPT) / PEAK, each + reading


def decoding(time: str) -> World:
    """240 sets of weights under four deployments, searched for accuracy and for this time.

    A token is bound by the bytes that are read for it, the first one by operations; a kernel is faster or slower than
    that by 1.5 %.
    """
    space = Space(KNOBS, SHAPE, DEPLOYMENTS)
    grid, rng = weights_grid(space), np.random.default_rng(7)
    rows = grid.pool(np.zeros((0, 4), dtype=np.int64), len(grid), rng)
    layers, heads, neurons, rank = (np.array(v, dtype=float)[rows[:, i]] for i, v in enumerate(grid.values.values()))
    shapes = shapes_of(space, [grid.settings(row) for row in rows], OUTLINE)
    parts = [first_and_later_ms(shapes, deployment) for deployment in DEPLOYMENTS]
    first, later = (np.stack(part, axis=1) for part in zip(*parts, strict=True))
    first, later = (ms * np.exp(0.015 * rng.normal(size=ms.shape)) for ms in (first, later))
    times = {"ttft_ms": first, "tpot_ms": later, LATENCY: first + (NEW_TOKENS - 1) * later}
    lost = damage(layers / 12, np.ones(len(rows)), heads, neurons, rank)
    truth = 0.5 + 0.36 * np.exp(-(lost**1.3) * 1.6) + rng.normal(0, 0.003, len(rows))
    logs = {name: np.log(ms) for name, ms in times.items()}
    return World(
        "decoding",
        space,
        rows,
        truth[:, None] - np.array([LOST[deployment.precision] for deployment in DEPLOYMENTS]),
        logs[time],
        logs[time],
        0.0,
        np.ones(len(rows)),
        0.5,
        time=time,
        other_times={name: log for name, log in logs.items() if name != time},
        conditions=CONDITIONS,
    )
