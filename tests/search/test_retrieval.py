"""The nearest passages, against a plain computation of all cosines."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from search.serve.approximate import Approximate
from search.serve.passage_index import Index


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_the_nearest_are_those_of_all_cosines_while_rows_come_and_go(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    index = Index(tmp_path / "vectors", 8)
    vectors = {
        n: generator.normal(size=8).astype(np.float32) for n in range(3000)
    }  # more than there is room for at first
    index.add(vectors.items())
    for n in generator.permutation(3000)[:1000].tolist():
        assert index.remove(n) and not index.remove(n)
        del vectors[n]
    vectors[5000] = generator.normal(size=8).astype(np.float32)
    index.add([(5000, vectors[5000])])
    again = next(iter(vectors))
    vectors[again] = generator.normal(size=8).astype(np.float32)
    index.add([(again, vectors[again])])  # replaces
    assert len(index) == len(vectors)
    numbers, rows = np.array(list(vectors)), unit(np.stack(list(vectors.values())))
    for _ in range(20):
        question = generator.normal(size=8).astype(np.float32)
        cosines = rows @ unit(question)
        best = np.argsort(-cosines)[:5]
        hits = index.search(question, 5)
        assert [hit.passage for hit in hits] == numbers[best].tolist()
        assert [hit.score for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-5)


def clustered(count: int, seed: int = 0) -> dict[int, np.ndarray]:
    """Rows (32,) around 40 centres, as texts of 40 topics are."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(40, 32))
    rows = centres[generator.integers(40, size=count)] + 0.5 * generator.normal(size=(count, 32))
    return {n: row.astype(np.float32) for n, row in enumerate(rows)}


def recall(index: Index, vectors: dict[int, np.ndarray], questions: np.ndarray) -> float:
    numbers, rows = np.array(list(vectors)), unit(np.stack(list(vectors.values())))
    shares = []
    for question in questions:
        best = numbers[np.argsort(-(rows @ unit(question)))[:5]]
        shares.append(np.isin(best, [hit.passage for hit in index.search(question, 5)]).mean())
    return float(np.mean(shares))


def test_many_passages_are_found_by_their_clusters_while_rows_come_and_go(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors = clustered(3000)
    index = Index(tmp_path / "vectors", 32, exact=1000)
    for row in vectors.items():
        index.add([row])
    assert index.approximate is not None and index.approximate.trained_on == 2003  # built anew as they doubled
    assert index.approximate.probes < 40
    generator = np.random.default_rng(1)
    for n in generator.permutation(3000)[:500].tolist():
        assert index.remove(n) and not index.remove(n)
        del vectors[n]
    replaced = next(iter(vectors))
    vectors[replaced] = -vectors[replaced]
    index.add([(replaced, vectors[replaced])])
    assert index.search(vectors[replaced], 1)[0].passage == replaced
    assert len(index) == len(index.approximate) == 2500
    questions = np.stack(list(vectors.values()))[:200] + 0.3 * generator.normal(size=(200, 32)).astype(np.float32)
    assert recall(index, vectors, questions) > 0.95 and index.recall > 0.9


def test_clusters_that_miss_too_much_are_read_in_greater_number() -> None:
    pytest.importorskip("faiss")
    rows = unit(np.stack(list(clustered(1500).values())))
    clusters = Approximate(np.arange(1500), rows, noise=0.0)
    # Questions unlike any stored row: between the clusters, so that few of them hold all their neighbours.
    questions = unit(np.random.default_rng(2).normal(size=(400, 32)).astype(np.float32))
    probes = clusters.probes
    for question in questions:
        exact = np.argsort(-(rows @ question))[:10]
        clusters.audit(clusters.search(question, 10)[0], exact)
    assert clusters.probes > probes and clusters.recall > 0.97


def test_fewer_passages_than_asked_for_are_all_given_and_equal_ones_by_number(tmp_path: Path) -> None:
    index = Index(tmp_path / "vectors", 2)
    assert index.search(np.ones(2, dtype=np.float32), 3) == []
    index.add([(n, np.ones(2, dtype=np.float32)) for n in (9, 2, 5)])
    assert [hit.passage for hit in index.search(np.ones(2, dtype=np.float32), 10)] == [2, 5, 9]


def test_a_second_index_in_the_same_file_leaves_the_first_one_whole(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [(n, generator.normal(size=4).astype(np.float32)) for n in range(1500)]
    first = Index(tmp_path / "vectors", 4)
    first.add(rows)
    second = Index(tmp_path / "vectors", 4)
    second.add(rows[:1])
    first.add([(n + 1500, vector) for n, vector in rows])  # grows once more
    assert first.search(rows[700][1], 2)[0].passage == 700 and len(first) == 3000
    assert [hit.passage for hit in second.search(rows[0][1], 5)] == [0]


@pytest.mark.parametrize("vector", [np.ones(3), np.zeros(2), np.array([np.nan, 1]), np.array([np.inf, 1])])
def test_what_is_no_embedding_of_this_size_is_refused(tmp_path: Path, vector: np.ndarray) -> None:
    index = Index(tmp_path / "vectors", 2)
    with pytest.raises(ValueError, match="an embedding must"):
        index.add([(1, vector.astype(np.float32))])
    assert len(index) == 0


def test_searching_while_rows_are_added_gives_whole_answers(tmp_path: Path) -> None:
    index = Index(tmp_path / "vectors", 4)
    index.add([(0, np.array([1, 0, 0, 0], dtype=np.float32))])
    ended = threading.Event()
    wrong: list[object] = []

    def look() -> None:
        while not ended.is_set():
            hits = index.search(np.array([1, 0, 0, 0], dtype=np.float32), 1)
            if [hit.passage for hit in hits] != [0]:
                wrong.append(hits)

    searching = threading.Thread(target=look)
    searching.start()
    index.add((n, np.array([0.1, n + 1, 0, 0], dtype=np.float32)) for n in range(1, 5000))
    ended.set()
    searching.join()
    assert not wrong
