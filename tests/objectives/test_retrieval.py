"""Ranks, recall, reciprocal rank, NDCG and similarities: by hand, and against scikit-learn."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity

from objectives import retrieval
from objectives.retrieval import ndcg, ranks, recall_at, reciprocal_rank, similarities


def scored(*scores: list[float], relevant: list[list[int]]) -> list[list[int]]:
    """Ranks where query i scores passage j as scores[i][j]."""
    passages = np.array(scores, dtype=float).T
    return [places.tolist() for places in ranks(np.eye(len(scores)), passages, relevant)]


def test_ranks_by_hand() -> None:
    places = scored([0.1, 0.9, 0.5, 0.3], [0.4, 0.2, 0.8, 0.6], relevant=[[2], [3, 1]])
    assert places == [[2], [2, 4]]


def test_a_tie_with_a_passage_that_is_not_relevant_is_lost() -> None:
    assert scored([0.5, 0.5, 0.5, 0.1], relevant=[[0]]) == [[3]]
    assert scored([0.5, 0.5, 0.5, 0.1], relevant=[[0, 1]]) == [[2, 3]], "relevant ones stand behind each other"
    assert scored([0.0] * 5, relevant=[[1, 3]]) == [[4, 5]], "all alike is worst"
    assert scored([0.7, 0.7, 0.7], relevant=[[2, 0, 1]]) == [[1, 2, 3]]


def test_equal_passages_tie_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    few, which = rng.normal(size=(7, 384)), rng.integers(7, size=997)
    asked = rng.normal(size=(50, 384))
    rankings = ranks(asked, few[which], [[0]] * 50)
    copies = np.bincount(which, minlength=7)
    expected = [copies[row >= row[which[0]]].sum() for row in asked @ few.T]
    assert [int(places[0]) for places in rankings] == expected


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    asked, stored = rng.normal(size=(23, 8)), rng.normal(size=(31, 8))
    relevant = [rng.choice(31, rng.integers(1, 5), replace=False) for _ in range(23)]
    whole = ranks(asked, stored, relevant)
    monkeypatch.setattr(retrieval, "BLOCK", 31 * 4)
    assert [p.tolist() for p in ranks(asked, stored, relevant)] == [p.tolist() for p in whole]
    order = (-(asked @ stored.T)).argsort(1)
    naive = [sorted(int(np.flatnonzero(row == i)[0]) + 1 for i in r) for row, r in zip(order, relevant, strict=True)]
    assert [p.tolist() for p in whole] == naive


def test_values_by_hand() -> None:
    rankings = [np.array([1]), np.array([2, 11]), np.array([3, 4, 5]), np.array([12])]
    assert recall_at(rankings, 1).tolist() == [1, 0, 0, 0]
    assert recall_at(rankings, 4).tolist() == [1, 0.5, 2 / 3, 0]
    assert recall_at(rankings, 100).tolist() == [1, 1, 1, 1]
    assert reciprocal_rank(rankings).tolist() == [1, 1 / 2, 1 / 3, 0]
    assert reciprocal_rank(rankings, k=2).tolist() == [1, 1 / 2, 0, 0]
    two = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    three = (1 / 2 + 1 / math.log2(5) + 1 / math.log2(6)) / (1 + 1 / math.log2(3) + 1 / 2)
    np.testing.assert_allclose(ndcg(rankings), [1, two, three, 0])
    assert ndcg(rankings, k=1).tolist() == [1, 0, 0, 0]
    assert all(v.dtype == np.float64 for v in (recall_at(rankings, 1), reciprocal_rank(rankings), ndcg(rankings)))


def test_more_relevant_passages_than_places_can_still_be_perfect() -> None:
    assert ndcg([np.arange(1, 16)], k=10).tolist() == [1.0]


@pytest.fixture
def drawn() -> tuple[Any, Any, Any]:
    """(scores (Q, P), relevance (Q, P), ranks) of several relevant passages a query, without ties."""
    rng = np.random.default_rng(2)
    asked, stored = rng.normal(size=(40, 6)), rng.normal(size=(50, 6))
    relevance = np.zeros((40, 50), dtype=int)
    for row in relevance:
        row[rng.choice(50, rng.integers(1, 15), replace=False)] = 1
    return asked @ stored.T, relevance, ranks(asked, stored, [np.flatnonzero(row) for row in relevance])


@pytest.mark.parametrize("k", [1, 3, 10, 50])
def test_ndcg_is_that_of_scikit_learn(drawn: tuple[Any, Any, Any], k: int) -> None:
    scores, relevance, rankings = drawn
    np.testing.assert_allclose(ndcg(rankings, k).mean(), ndcg_score(relevance, scores, k=k, ignore_ties=True))
    each = [ndcg_score(relevance[i : i + 1], scores[i : i + 1], k=k, ignore_ties=True) for i in range(len(scores))]
    np.testing.assert_allclose(ndcg(rankings, k), each)


def test_average_precision_of_the_ranks_is_that_of_scikit_learn(drawn: tuple[Any, Any, Any]) -> None:
    scores, relevance, rankings = drawn
    precision = [np.mean(np.arange(1, len(places) + 1) / places) for places in rankings]
    np.testing.assert_allclose(np.mean(precision), label_ranking_average_precision_score(relevance, scores))


def test_one_relevant_passage_a_query_with_ties_is_as_scikit_learn_has_it() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(4, size=(60, 12)).astype(float)
    right = rng.integers(12, size=60)
    rankings = ranks(np.eye(60), scores.T, [[i] for i in right])
    relevance = np.eye(12, dtype=int)[right]
    np.testing.assert_allclose(
        reciprocal_rank(rankings, k=12).mean(), label_ranking_average_precision_score(relevance, scores)
    )
    clear = scores + rng.permuted(np.tile(np.arange(12) / 100, (60, 1)), axis=1)
    rankings = ranks(np.eye(60), clear.T, [[i] for i in right])
    for k in (1, 5):
        assert recall_at(rankings, k).mean() == pytest.approx(top_k_accuracy_score(right, clear, k=k, labels=range(12)))


def test_ten_thousand_queries_among_twenty_thousand_passages_fit_in_memory() -> None:
    rng = np.random.default_rng(4)
    stored = rng.normal(size=(20_000, 16)).astype(np.float32)
    right = rng.integers(20_000, size=10_000)
    tracemalloc.start()
    try:
        rankings = ranks(stored[right], stored, right.reshape(-1, 1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(rankings) == 10_000 and peak < 256e6, "all scores at once are 1.6 GB"


def test_similarities_are_cosines() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(9, 5)), rng.normal(size=(9, 5))
    np.testing.assert_allclose(similarities(a, b), np.diag(cosine_similarity(a, b)))
    cosines = similarities([[3, 0], [1, 1], [0, 0], [2, 1]], [[5, 0], [-1, -1], [1, 0], [-1, 2]])
    np.testing.assert_allclose(cosines, [1, -1, 0, 0], atol=1e-15)


@pytest.mark.parametrize(
    ("queries", "passages", "relevant", "rule"),
    [
        ([[1.0, 2.0]], [[1.0]], [[0]], "queries and passages must have equal widths, got 2 and 1"),
        ([[1.0]], [[1.0]], [], "relevant must have one entry for each of the 1 queries, got 0"),
        ([[1.0]], [[1.0]], [[]], "relevant passages of query 0 must be different numbers from 0 to 0"),
        ([[1.0]], [[1.0], [2.0]], [[-1]], "from 0 to 1"),
        ([[1.0]], [[1.0], [2.0]], [[2]], "from 0 to 1"),
        ([[1.0]], [[1.0], [2.0]], [[1, 1]], "different numbers"),
        ([[math.nan]], [[1.0]], [[0]], "queries must hold finite numbers, got infinity or NaN"),
        ([[1.0]], [[math.inf]], [[0]], "passages must hold finite numbers"),
        ([1.0], [[1.0]], [[0]], r"queries must be rows of numbers, got shape \(1,\)"),
        ([[1.0]], np.zeros((0, 1)), [[0]], "passages must be rows"),
    ],
)
def test_what_has_no_rank_is_refused(queries: Any, passages: Any, relevant: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        ranks(queries, passages, relevant)


def test_pairs_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs must be of one shape"):
        similarities(np.ones((2, 3)), np.ones((3, 3)))
