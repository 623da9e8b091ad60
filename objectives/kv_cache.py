"""Memory of the keys and values of a language model, derived from the model's shape."""

from __future__ import annotations

from objectives.measurement import Objective

A_TOKEN = Objective(
    "cache_kb_per_token",
    "KB",
    "lower",
    "keys and values of one more token of a row, predicted from the model's shape, KB of 1e3",
)
AT_END = Objective(
    "cache_mb",
    "MB",
    "lower",
    "keys and values of all rows at the end of a timed call, predicted from the model's shape, MB of 1e6",
)

OBJECTIVES = (A_TOKEN, AT_END)
#: Names of objectives that only a task that generates text has.
CACHE_NAMES = tuple(objective.name for objective in OBJECTIVES)
