"""The same weights in fp32 must give the same output under every runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from objectives import quality
from objectives.bench import Batch
from objectives.process import Remote
from search.measure.outputs import joined, unit
from search.prepare.folders import reference_rows
from search.tasks.tokens import Encoded
from spaces.base import Base, read_config
from spaces.generation.causal import LOG_LIKELIHOOD, STEPPED

#: Largest difference of an output from eager PyTorch.
PARITY = 1e-3
#: For a model that generates: rows that go through its cache, prompt tokens, and most tokens after the prompt.
CACHED_ROWS, PROMPT, STEPS = 2, 16, 16


def check_parity(runtime: str, folder: Path, bench: Remote, encoded: Encoded, timeout_s: float) -> None:
    """Compare the output on the first rows of `encoded` (validation, whole) with the folder's `reference.npy`.

    For a model that generates, the likelihoods of a few rows are computed through its cache, as in a timed call.

    Raises:
        ArithmeticError: they differ by more than `PARITY`.
    """
    reference = np.load(folder / "reference.npy", allow_pickle=False)
    base = read_config(folder)[0]
    if base.output == LOG_LIKELIHOOD:
        difference = _cached_difference(bench, encoded, reference, timeout_s)
    else:
        batches = [encoded.batch(np.array([i])) for i in reference_rows(encoded)]
        difference = _difference(bench.call("predict", batches, timeout_s=timeout_s), batches, reference, base)
    if not difference <= PARITY:
        raise ArithmeticError(
            f"{runtime} gives other outputs than eager PyTorch: they differ by {difference:.2g}, more than {PARITY:g}"
        )


def _difference(
    outputs: Sequence[dict[str, np.ndarray]], batches: Sequence[Batch], reference: np.ndarray, base: Base
) -> float:
    ours = joined(outputs, batches, base)
    return quality.parity([{base.output: ours}], [{base.output: reference}]) / unit(base, reference)


def _cached_difference(bench: Remote, encoded: Encoded, reference: np.ndarray, timeout_s: float) -> float:
    """The largest difference of log-likelihoods through the cache, of rows longer than one token."""
    rows = reference_rows(encoded)
    ends = np.cumsum(encoded.lengths[rows])
    chosen = [i for i in rows if encoded.lengths[i] > 1][:CACHED_ROWS]
    batches, wanted = [], []
    for i in chosen:
        length = int(min(encoded.lengths[i], PROMPT + STEPS))
        prompt = min(PROMPT, length - 1)
        batch = {name: array[:, :length] for name, array in encoded.batch(np.array([i])).items()}
        batches.append({**batch, STEPPED: np.array([prompt])})
        begin = int(ends[i] - encoded.lengths[i])
        wanted.append(reference[begin + prompt : begin + length])
    outputs = bench.call("predict", batches, timeout_s=timeout_s)
    ours = [one[LOG_LIKELIHOOD][0, int(batch[STEPPED][0]) :] for one, batch in zip(outputs, batches, strict=True)]
    return max((float(np.abs(a - b).max()) for a, b in zip(ours, wanted, strict=True)), default=0.0)
