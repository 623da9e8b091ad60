"""The same weights in fp32 must give the same output under every runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from objectives.process import Remote
from search.measure.outputs import joined_outputs
from search.prepare.folders import reference_rows
from search.tasks import Task
from search.tasks.parity_rule import Parity
from search.tasks.tokens import Encoded
from spaces import build
from spaces.base import read_config
from spaces.generation.causal_predict import LOG_LIKELIHOOD, STEPPED
from spaces.recipe import Recipe

#: For a model that generates: rows that go through its cache, prompt tokens, and most tokens after the prompt.
CACHED_ROWS, CACHED_PROMPT, CACHED_STEPS = 2, 16, 16


def check_parity(
    task: Task, recipe: Recipe, folder: Path, bench: Remote, encoded: Encoded, timeout_s: float, capacity: int
) -> None:
    """Compare the output on the first rows of `encoded` (validation, whole) with the folder's `reference.npy`.

    For a model that generates, the likelihoods of a few rows are computed through its cache, as in a timed call:
    on at most `capacity` tokens, which attend only to cached tokens. What the cache itself loses is counted as quality.

    Raises:
        ArithmeticError: they differ by more than the task's rule allows.
    """
    reference = np.load(folder / "reference.npy", allow_pickle=False)
    rule = task.parity
    if task.generates:
        cache = build.cache_of(recipe)
        exact = None if cache is None else cache.exact_tokens
        tokens = min(CACHED_PROMPT + CACHED_STEPS, capacity, capacity if exact is None else exact)
        difference = _cached_difference(rule, bench, encoded, reference, tokens, timeout_s)
    else:
        batches = [encoded.batch(np.array([i])) for i in reference_rows(encoded)]
        outputs = bench.call("predict", batches, timeout_s=timeout_s)
        difference = rule.between(joined_outputs(outputs, batches, read_config(folder)[0]), reference)
    if not difference <= rule.runtimes:
        raise ArithmeticError(
            f"{recipe.runtime.name} gives other outputs than eager PyTorch: they differ by {rule.shown(difference)}, "
            f"more than {rule.runtimes:g}"
        )


def _cached_difference(
    rule: Parity, bench: Remote, encoded: Encoded, reference: np.ndarray, most: int, timeout_s: float
) -> float:
    """The largest difference of log-likelihoods through the cache, of the `most` first tokens of each row."""
    rows = reference_rows(encoded)
    ends = np.cumsum(encoded.lengths[rows])
    chosen = [i for i in rows if encoded.lengths[i] > 1][:CACHED_ROWS]
    batches, wanted = [], []
    for i in chosen:
        length = int(min(encoded.lengths[i], most))
        prompt = min(CACHED_PROMPT, length - 1)
        batch = {name: array[:, :length] for name, array in encoded.batch(np.array([i])).items()}
        batches.append({**batch, STEPPED: np.array([prompt])})
        begin = int(ends[i] - encoded.lengths[i])
        wanted.append(reference[begin + prompt : begin + length])
    outputs = bench.call("predict", batches, timeout_s=timeout_s)
    ours = [one[LOG_LIKELIHOOD][0, int(batch[STEPPED][0]) :] for one, batch in zip(outputs, batches, strict=True)]
    return max((rule.between(a, b) for a, b in zip(ours, wanted, strict=True)), default=0.0)
