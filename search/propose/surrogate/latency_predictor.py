"""Latencies of candidates before they are built: a table of measured shapes, which every trial corrects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from objectives import latency
from objectives.latency_table import LatencyTable
from objectives.measurement import Measurement
from objectives.shapes import Array, Shapes
from search.front.outcome import LATENCY, Outcome
from search.measure.measurer import Measurer
from search.measure.timing import LATENCIES
from search.prepare.prepared import Prepared
from search.space.sizes import Params, outline_of, shapes_of
from search.space.space import PRECISION, RUNTIME
from spaces.axes.bits import EMBEDDINGS, INTEGER

#: Relative standard error between fresh processes of one model, which no single one of them shows.
FRESH = 0.01
#: And of what was timed on a machine that was disturbed.
NOISY = 0.05
AS_IS = EMBEDDINGS[0]


class UnknownAnatomy(ValueError):  # noqa: N818 - what is known of it
    """A model whose layers are not known, so that no shape follows from settings."""


class LatencyPredictor:
    """Predicted latencies of this search's settings.

    Shapes are those that settings say (`search.space.sizes.shapes_of`), for what is measured as for what is predicted,
    so that what the statistics make of a setting beside that is learnt as a part of its time.

    Args:
        measurer: knows the workloads and the reference.
        folder: where tables are kept; by default `latency` beside the study's other results.
        mark: suffix of the workload ("b32-l128", "cuda-b8"); by default the main one.

    Raises:
        UnknownAnatomy: no shape follows from settings.
    """

    def __init__(self, prepared: Prepared, measurer: Measurer, folder: Path | None = None, mark: str = "") -> None:
        outline = outline_of(prepared.teacher)
        if prepared.space.shape is None or outline is None:
            raise UnknownAnatomy("the latency of a model whose anatomy is not known cannot be predicted")
        self._prepared, self._measurer, self._outline = prepared, measurer, outline
        self._folder = folder or Path(prepared.config.mlruns) / LATENCIES
        self._mark = mark
        self.conditions = measurer.times.inputs(mark)[1]
        self._latency = latency.under(LATENCY, mark)  # what trials call it
        self.table = LatencyTable(self._folder, self.conditions)

    def shapes(self, pool: Sequence[Params]) -> Shapes:
        return shapes_of(self._prepared.space, pool, self._outline)

    def predict(self, pool: Sequence[Params]) -> tuple[Array, Array]:
        """(log of ms (N,), its standard deviation (N,)) of settings, each under its own runtime and precision."""
        shapes, names = self.shapes(pool), np.array([deployment_name(params) for params in pool])
        log_ms, sd = np.empty(len(pool)), np.empty(len(pool))
        for name in np.unique(names):
            chosen = names == name
            log_ms[chosen], sd[chosen] = self.table.predict(str(name), shapes[chosen])
        return log_ms, sd

    @property
    def reference_error(self) -> float:
        """Relative standard error of what all latencies here are counted by."""
        low, high = self._measurer.times.reference(self._mark).interval
        return float(np.log(high / low)) / (2 * 1.96)

    def correct(self, outcome: Outcome) -> None:
        """Take in the latency that a trial measured, under the conditions it was measured under."""
        timed = outcome.measurements.get(self._latency)
        if timed is None or not {"batch", "length"} <= set(timed.conditions):
            return
        table = self.table
        if any(timed.conditions.get(name) != value for name, value in self.conditions.items()):
            table = LatencyTable(self._folder, timed.conditions)
        params = outcome.recipe.params
        table.add(deployment_name(params), self.shapes([params]), timed.value, error_of(timed))


def deployment_name(params: Params) -> str:
    """A deployment's name in the table of latencies: "onnx/int8", or "onnx/int8 fp32_blocks 2"."""
    precision, fp32_blocks, tables = (
        params.get(PRECISION, "fp32"),
        params.get("bits.fp32_blocks", 0),
        params.get("bits.embeddings", AS_IS),
    )
    spared = f" fp32_blocks {fp32_blocks}" if fp32_blocks and precision in INTEGER else ""
    return f"{params.get(RUNTIME, 'eager')}/{precision}{spared}{'' if tables == AS_IS else f' embeddings {tables}'}"


def error_of(timed: Measurement) -> float:
    """Relative standard error of a median, or of a ratio: what its interval says, and what processes differ by.

    Without the error of the reference, which is one and the same for all that a table holds.
    """
    low, high = timed.interval
    seen, shared = (high - low) / (2 * 1.96 * timed.value), latency.reference_error(timed)
    known = np.hypot(np.sqrt(max(0.0, seen**2 - shared**2)), FRESH)
    return float(np.hypot(known, NOISY if timed.conditions.get("noisy") else 0.0))
