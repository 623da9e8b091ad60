"""How much of the data a recovery trains on, and how much of the teacher's distributions it is taught."""

from __future__ import annotations

from search.config.schema import RunConfig
from search.tasks import task_of

#: How many of the teacher's likeliest tokens teach where nothing else is said.
TOP_K = 64
#: Bytes of each that is stored: its number and its log-probability.
BYTES_EACH = 4 + 2
#: Above this they are computed as they are needed instead of stored.
STORED_BYTES = 2 * 10**9


def likeliest_of(config: RunConfig) -> int:
    """How many of the teacher's likeliest next tokens teach at each position; 0 of a task that generates none."""
    recover = config.recover
    if recover.soft_weight == 0 or not task_of(config).generates:
        return 0
    return TOP_K if recover.top_k is None else recover.top_k


def stored_likeliest(count: int, tokens: int) -> int:
    """How many are stored for so many tokens: all or none."""
    return count if tokens * count * BYTES_EACH <= STORED_BYTES else 0


def epochs_of(epochs: float, most: int | None, tokens: int) -> float:
    """How many epochs of so many `tokens` are trained where at most `most` tokens are."""
    return epochs if most is None else min(epochs, most / tokens)
