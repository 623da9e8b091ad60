"""The least memory that candidates can take at their peak, known before they are built."""

from __future__ import annotations

import math

import numpy as np

from objectives.arrays import Floats
from objectives.ceilings import BYTES
from objectives.memory import ACTIVATIONS_MEMORY, PEAK_MEMORY, WEIGHTS_MEMORY
from objectives.passes import Passes
from objectives.shapes import WHOLE, Shapes
from search.config.schema import LimitsConfig
from search.front.outcome import Outcome
from search.propose.surrogate.step_reads import StepReads
from search.space.deployments import PRECISION
from search.space.space import Params

#: Bytes of a logit.
LOGIT = 4


def memory_limit(wanted: LimitsConfig) -> float:
    """The most MB of `peak_memory_mb` that the limits allow; infinite without such a limit."""
    bounds = (wanted.max_memory_mb, wanted.others.get(PEAK_MEMORY.name))
    return min((bound for bound in bounds if bound is not None), default=math.inf)


class MemoryBound:
    """A lower bound on `peak_memory_mb`: what a process surely holds at one time.

    That is what it held before the model was opened, as trials showed it, all matrices, and the larger of two things:
    input and output of the largest matrix for all tokens of a call, or, where text is generated, the cache at the end
    and the logits of all rows. Scales, embedding tables, other activations and copies that a runtime makes are left
    out.

    Args:
        passes: of a whole call; where its rows have the lengths of the data, of one token.
        reads: of the space, for the sizes of caches; None where no text is generated.
    """

    def __init__(self, passes: Passes, reads: StepReads | None) -> None:
        self._passes, self._reads = passes, reads
        self._process_mb = math.inf  # before opening; not known while infinite

    def megabytes(self, shapes: Shapes, matrices_mb: Floats, settings: Params) -> Floats:
        """(N,) MB of models under one deployment, of which `settings` are those by `<axis>.<knob>`."""
        precision = str(settings.get(PRECISION, "fp32"))
        number = BYTES[precision] if precision in WHOLE else 1  # int8 products have inputs of one byte
        widest = np.where(shapes.count > 0, shapes.inputs + shapes.outputs, 0.0).max(1, initial=0.0)
        working = self._passes.batch * self._passes.length * widest * number
        if self._reads is not None:
            rows = self._passes.batch
            vocabulary = shapes.row_weights / np.maximum(shapes.hidden, 1.0)
            cache = self._reads.cache_at_end(shapes, settings, rows)
            if self._reads.context.device == "cuda" and precision not in WHOLE:
                cache = cache / 2  # kernels of these precisions there keep it in bf16
            working = np.maximum(working, cache + rows * vocabulary * LOGIT)
        process = self._process_mb if math.isfinite(self._process_mb) else 0.0
        least: Floats = process + matrices_mb + working / 1e6
        return least

    def learn(self, outcome: Outcome) -> None:
        """Read from a trial what a process holds before its model is opened; the least of all trials counts."""
        parts = [outcome.measurements.get(o.name) for o in (PEAK_MEMORY, WEIGHTS_MEMORY, ACTIVATIONS_MEMORY)]
        if None not in parts:
            peak, *added = (part.value for part in parts if part is not None)
            self._process_mb = min(self._process_mb, max(0.0, peak - sum(added)))
