"""How well embeddings retrieve relevant passages: ranks among all passages, retrieval metrics, and cosines of pairs.

Every passage is compared with every query, in float64. Metrics have one value per query, so that intervals can be
computed from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from objectives.arrays import Floats

Ranks = Sequence[NDArray[np.int64]]  # of each query: the ranks of its relevant passages from 1, the best first

BLOCK = 2**23  # scores that are held at a time: 64 MB


def ranks(queries: ArrayLike, passages: ArrayLike, relevant: Sequence[ArrayLike]) -> list[NDArray[np.int64]]:
    """The ranks (from 1, ascending) of each query's relevant passages by dot product, which is cosine at length 1.

    An irrelevant passage ranks before a relevant one of the same score, so a model that gives all texts the same
    embedding gains nothing by it.

    Args:
        queries: (Q, D).
        passages: (P, D).
        relevant: for each query, the indices of its relevant passages, at least one.

    Raises:
        ValueError: shapes that do not match, values that are not finite, or indices that are missing, repeated or out
            of
            range.
    """
    asked, stored = _embeddings(queries, "queries"), _embeddings(passages, "passages")
    if asked.shape[1] != stored.shape[1]:
        raise ValueError(f"queries and passages must have equal widths, got {asked.shape[1]} and {stored.shape[1]}")
    if len(relevant) != len(asked):
        raise ValueError(f"relevant must have one entry for each of the {len(asked)} queries, got {len(relevant)}")
    wanted = [_indices(i, indices, len(stored)) for i, indices in enumerate(relevant)]
    # Equal passages are scored once: the last bit of a matrix product may depend on the position of a column.
    unique, column_of = _unique(stored)
    ranks: list[NDArray[np.int64]] = []
    step = max(1, BLOCK // len(stored))
    for start in range(0, len(asked), step):
        scores = asked[start : start + step] @ unique.T
        scores = scores if len(unique) == len(stored) else scores[:, column_of]
        ranks += [_ranks(row, wanted[start + i]) for i, row in enumerate(scores)]
    return ranks


def _embeddings(values: ArrayLike, what: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{what} must be rows of numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} must hold finite numbers, got infinity or NaN")
    return array


def _indices(query: int, values: ArrayLike, passages: int) -> NDArray[np.int64]:
    array: NDArray[np.int64] = np.atleast_1d(np.asarray(values, dtype=np.int64))
    if not array.size or array.min() < 0 or array.max() >= passages or len(np.unique(array)) < len(array):
        raise ValueError(f"relevant passages of query {query} must be different numbers from 0 to {passages - 1}")
    return array


def _unique(rows: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """(the different rows, the number of each row (N,) among them)."""
    numbers: dict[bytes, int] = {}
    number_of = [numbers.setdefault(row.tobytes(), len(numbers)) for row in rows + 0.0]  # -0.0 is 0.0
    _, first = np.unique(number_of, return_index=True)
    return rows[first], np.array(number_of, dtype=np.int64)


def _ranks(scores: Floats, relevant: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ranks of the relevant passages of one query; changes `scores` (P,)."""
    own = np.sort(scores[relevant])[::-1]
    scores[relevant] = -np.inf
    others = np.sort(scores[scores >= own[-1]])
    before = len(others) - np.searchsorted(others, own, side="left")
    return np.asarray(before + np.arange(1, len(own) + 1), dtype=np.int64)


def recall_at(ranks: Ranks, k: int) -> Floats:
    """(Q,): the share of each query's relevant passages that are among its first k."""
    return np.array([np.mean(own <= k) for own in ranks], dtype=np.float64)


def reciprocal_rank(ranks: Ranks, k: int = 10) -> Floats:
    """(Q,): 1 / the rank of each query's first relevant passage, 0 beyond rank k. The mean over queries is MRR@k."""
    return np.array([1 / own[0] if own[0] <= k else 0.0 for own in ranks], dtype=np.float64)


def ndcg(ranks: Ranks, k: int = 10) -> Floats:
    """(Q,): normalised discounted cumulative gain of the first k, with binary relevance.

    Järvelin & Kekäläinen (2002), with the discount log2(1 + rank) of trec_eval and scikit-learn: the gain divided by
    that of a list in which the relevant passages come first. By hand: scikit-learn's takes the scores (Q, P) of all
    passages, which are never held at once.
    """
    return np.array([_gain(p[p <= k]) / _gain(np.arange(1, min(k, len(p)) + 1)) for p in ranks], dtype=np.float64)


def _gain(ranks: NDArray[Any]) -> float:
    return float((1 / np.log2(1 + ranks)).sum())


def similarities(a: ArrayLike, b: ArrayLike) -> Floats:
    """(N,): the cosine of each pair of rows of a (N, D) and b (N, D); 0 where one is all zeros.

    Raises:
        ValueError: different shapes, or values that are not finite.
    """
    first, second = _embeddings(a, "first embeddings"), _embeddings(b, "second embeddings")
    if first.shape != second.shape:
        raise ValueError(f"pairs must be of one shape, got {first.shape} and {second.shape}")
    return np.asarray((_unit(first) * _unit(second)).sum(1), dtype=np.float64)


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0), dtype=np.float64)
