"""The terms and the budget of a recovery: tokens of training data, and likeliest tokens of the teacher."""

from __future__ import annotations

from search.config.schema import RunConfig
from search.errors import UserError
from search.tasks import task_of
from search.tasks.task import LIKELIEST, TERMS

#: The default number of the teacher's likeliest tokens in the loss.
TOP_K = 64
#: Bytes of a stored token: its id and its log-probability.
BYTES_EACH = 4 + 2
#: The size above which they are computed when needed instead of stored.
STORED_BYTES = 2 * 10**9


def has_term(config: RunConfig, term: str) -> bool:
    """Whether the loss has a term: it applies to the task, and its weight is above 0."""
    return term in task_of(config).distills and getattr(config.recover, f"{term}_weight") > 0


def check_terms(config: RunConfig) -> None:
    """Raise UserError where a recovery is asked for, and no term of its loss has a weight above 0."""
    if config.recover.epochs == 0 or any(has_term(config, term) for term in TERMS):
        return
    keys = ", ".join(f"{term}_weight" for term in TERMS if term in task_of(config).distills)
    raise UserError(
        f"{config.where('recover')}: must have a weight above 0 among {keys}, got 0 for all of them "
        "(recover.epochs: 0 recovers nothing)"
    )


def likeliest_of(config: RunConfig) -> int:
    """The number of the teacher's likeliest next tokens in the loss at each position; 0 where the task has none."""
    if LIKELIEST not in task_of(config).distills or not has_term(config, "soft"):
        return 0
    return TOP_K if config.recover.top_k is None else config.recover.top_k


def stored_likeliest(count: int, tokens: int) -> int:
    """The number of likeliest tokens to store at each of `tokens` positions: all `count` or none."""
    return count if tokens * count * BYTES_EACH <= STORED_BYTES else 0


def epochs_of(epochs: float, most: int | None, tokens: int) -> float:
    """The epochs of `tokens` tokens each, limited to `most` tokens in all."""
    return epochs if most is None else min(epochs, most / tokens)
