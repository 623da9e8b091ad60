"""Objectives of calls that generate text: the time to the first token, and the time of each token after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from objectives import stats
from objectives.arrays import Floats
from objectives.measurement import Measurement, Objective
from objectives.stats import Blocks

GENERATE = Objective(
    "generate_ms", "ms", "lower", "median time of a whole call that generates, which is its latency_p50_ms"
)
TTFT = Objective("ttft_ms", "ms", "lower", "median time to the first token: the prompt is read and one token chosen")
TPOT = Objective("tpot_ms", "ms", "lower", "median time of each token after the first")
TPOT_P90 = Objective("tpot_p90_ms", "ms", "lower", "90th percentile of the time of a later token (64 tokens or more)")
TPOT_P99 = Objective("tpot_p99_ms", "ms", "lower", "99th percentile of the time of a later token (662 tokens or more)")
TOKENS_PER_S = Objective("tokens_per_s", "tokens/s", "higher", "tokens generated in a second, the prompt included")

#: What is measured of the tokens of a call.
TOKEN_OBJECTIVES = (TTFT, TPOT, TPOT_P90, TPOT_P99, TOKENS_PER_S)
OBJECTIVES = (GENERATE, *TOKEN_OBJECTIVES)
#: Names of the objectives that only tasks that generate text have.
GENERATION_NAMES = tuple(objective.name for objective in OBJECTIVES)
#: Names of those of the tokens after the first.
LATER = tuple(objective.name for objective in (TPOT, TPOT_P90, TPOT_P99))


def whole_call(median: Measurement) -> Measurement:
    """The median time of a generating call as `generate_ms`, from the same time as `latency_p50_ms`."""
    return replace(median, objective=GENERATE.name)


def token_times(
    calls: Sequence[Sequence[Floats]], rows: int, seed: int, conditions: Mapping[str, Any]
) -> list[Measurement]:
    """The measurements of calls that each generate T tokens per row; [] where a process gives no times.

    Args:
        calls: by process and block, (n, T) ms from the start of each of n calls to each of its tokens.
        rows: number of rows of a call.
        seed: of the bootstrap over blocks.
    """
    if not all(len(blocks) for blocks in calls):
        return []
    count, tokens = sum(len(block) for blocks in calls for block in blocks), calls[0][0].shape[1]
    first: Blocks = [[block[:, 0] for block in blocks] for blocks in calls]
    [estimate] = stats.pooled(first, lambda times: np.percentile(times, [50]), seed)
    figures = [TTFT.measured(estimate.value, estimate.interval, count, conditions)]
    if tokens > 1:
        steps: Blocks = [[np.diff(block, axis=1).ravel() for block in blocks] for blocks in calls]
        total = count * (tokens - 1)
        tail = [(o, p) for o, p in ((TPOT_P90, 90.0), (TPOT_P99, 99.0)) if stats.enough_for(int(p), total)]
        percentiles = [(TPOT, 50.0), *tail]
        points = [point for _, point in percentiles]
        estimates = stats.pooled(steps, lambda times: np.percentile(times, points), seed)
        figures += [
            objective.measured(estimate.value, estimate.interval, total, conditions)
            for (objective, _), estimate in zip(percentiles, estimates, strict=True)
        ]
    last: Blocks = [[block[:, -1] for block in blocks] for blocks in calls]
    [estimate] = stats.pooled(last, lambda times: np.array([rows * tokens * 1e3 / times.mean()]), seed)
    return [*figures, TOKENS_PER_S.measured(estimate.value, estimate.interval, count, conditions)]
