"""Times of candidates before they are built, from a table of measured shapes that every trial adds to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from objectives import latency, reference_speed
from objectives.arrays import Floats
from objectives.ceilings import ceilings
from objectives.latency_table import LatencyTable
from objectives.measurement import Measurement
from objectives.passes import Passes
from objectives.shapes import Shapes, matrix_bytes
from search.front.outcome import LATENCY, Outcome
from search.measure.measurer import Measurer
from search.measure.timing import LATENCIES
from search.prepare.prepared import Prepared
from search.propose.surrogate.step_reads import Precisions, StepReads
from search.space.deployments import RUNTIME, Deployment
from search.space.sizes import outline_of, shapes_of
from search.space.space import Params

#: Relative standard error between fresh processes of one model; the interval of one process does not contain it.
PROCESS_ERROR = 0.01
#: Relative standard error added by a disturbed machine.
DISTURBED_ERROR = 0.05


class UnknownAnatomy(ValueError):  # noqa: N818 - it names the condition
    """The model's layers are of unknown anatomy, so shapes cannot be derived from settings."""


class LatencyPredictor:
    """Predicted times of this search's settings: of a whole call, or in a call that generates of its parts.

    Measured and predicted times belong to the shapes that follow from the settings alone
    (`search.space.sizes.shapes_of`). Where the statistics lead to another size, its time counts as that of the setting.

    Args:
        measurer: has the workloads and the reference.
        folder: where tables are kept; by default `latency` beside the study's other results.
        mark: suffix of the workload ("b32-l128", "cuda-b8"); by default the main one.
        time: `latency_p50_ms`, or of calls that generate also `ttft_ms` or `tpot_ms`.

    Raises:
        UnknownAnatomy: the model's layers are of unknown anatomy.
    """

    def __init__(
        self, prepared: Prepared, measurer: Measurer, folder: Path | None = None, mark: str = "", time: str = LATENCY
    ) -> None:
        outline, shape = outline_of(prepared.teacher), prepared.space.shape
        if shape is None or outline is None:
            raise UnknownAnatomy("the latency of a model whose anatomy is not known cannot be predicted")
        self._prepared, self._measurer, self._outline = prepared, measurer, outline
        self._folder = folder or Path(prepared.config.mlruns) / LATENCIES
        self._mark, self.time = mark, time
        self._reads = StepReads(shape, prepared.context)
        self.conditions = measurer.times.inputs(mark)[1]
        self._measurement = latency.under(time, mark)  # its name in trials' measurements
        self.table = self._table(self.conditions)

    def shapes(self, pool: Sequence[Params]) -> Shapes:
        """The shapes of N settings."""
        return shapes_of(self._prepared.space, pool, self._outline)

    def predict(self, pool: Sequence[Params], shapes: Shapes | None = None) -> tuple[Floats, Floats]:
        """(log of ms (N,), its standard deviation (N,)) of settings, each under its own runtime and precision.

        `shapes` are those of the settings, where they are at hand.
        """
        sizes = self.shapes(pool) if shapes is None else shapes
        names = np.array([deployment_name(params) for params in pool])
        log_ms, sd = np.empty(len(pool)), np.empty(len(pool))
        for name, first in zip(*np.unique(names, return_index=True), strict=True):
            chosen = names == name
            deployed = self._reads.added(sizes[chosen], pool[first], self.passes)
            log_ms[chosen], sd[chosen] = self.table.predict(str(name), deployed)
        return log_ms, sd

    @property
    def passes(self) -> Passes:
        """The passes that the time is of."""
        return self.table.passes

    @property
    def reference_error(self) -> float:
        """Relative standard error of the reference latency that all latencies are scaled to."""
        low, high = self._measurer.times.reference(self._mark).interval
        return float(np.log(high / low)) / (2 * 1.96)

    def correct(self, outcome: Outcome) -> None:
        """Add the time of a trial to the table of the conditions it was measured under."""
        timed = outcome.measurements.get(self._measurement)
        if timed is None or not {"batch", "length"} <= set(timed.conditions):
            return
        table = self.table
        if any(timed.conditions.get(name) != value for name, value in self.conditions.items()):
            table = self._table(timed.conditions)
        params = outcome.recipe.params
        deployed = self._reads.added(self.shapes([params]), params, table.passes)
        table.add(deployment_name(params), deployed, timed.value, error_of(timed))

    def _table(self, conditions: Mapping[str, Any]) -> LatencyTable:
        return LatencyTable(self._folder, conditions, self.time, self._ms_a_byte)

    def _ms_a_byte(self) -> float:
        """At the bandwidth that the uncompressed model's matrices are read with."""
        [size] = matrix_bytes(self.shapes([self._prepared.space.off]), "fp32").tolist()
        device, threads = str(self.conditions["device"]), int(self.conditions["threads"])
        return 1e3 / ceilings(device, threads).bandwidth(int(size))


def deployment_name(params: Params) -> str:
    """A deployment's name in the table of latencies: "onnx/int8", "onnx/int8 fp32_blocks 2", "onnx/int4 int8_blocks 8".

    A cache that is not the default one follows: "eager/fp32 cache kind static". Settings that are inactive
    under the precision are left out, as recipes have none.
    """
    stored = Precisions.of(params, head_follows=True)
    parts = (
        ("fp32_blocks", stored.fp32_blocks),
        ("int8_blocks", stored.int8_blocks),
        ("embeddings", stored.tables),
        ("head", stored.head),
    )
    apart = "".join(f" {name} {value}" for name, value in parts if value)
    deployment = Deployment.of({RUNTIME: "eager", **params})
    cache = "".join(f" cache {part}" for part in deployment.cache_parts)
    return f"{deployment.runtime}/{stored.precision}{apart}{cache}"


def error_of(timed: Measurement) -> float:
    """Relative standard error of a median or a ratio: that of its interval, and that between processes.

    The error of the reference is left out: it is common to all entries of a table.
    """
    low, high = timed.interval
    total, shared = (high - low) / (2 * 1.96 * timed.value), reference_speed.reference_error(timed)
    error = np.hypot(np.sqrt(max(0.0, total**2 - shared**2)), PROCESS_ERROR)
    return float(np.hypot(error, DISTURBED_ERROR if timed.conditions.get("noisy") else 0.0))
