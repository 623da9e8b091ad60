"""Approximate search over many embeddings: an inverted file of clusters, whose recall is measured while it serves.

A question is compared with the rows of its nearest clusters alone (Jégou, Douze and Schmid 2011, "Product quantization
for nearest neighbor search", section IV, without the quantization), by the library faiss.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]

#: Share of the exact nearest rows that searches must find; more clusters are searched until they do.
RECALL = 0.99
#: Neighbours whose recall is measured.
NEIGHBOURS = 10
#: Length of the noise on stored rows that stand for questions: their cosine with the row, whose length is 1, is 0.45.
STAND_IN_NOISE = 2.0
#: Stored rows from which the initial number of clusters to search is chosen.
SAMPLE_ROWS = 200
#: The interval of searches that are compared with exact ones, and the comparisons before more clusters are searched.
AUDIT_EVERY, AUDITS = 64, 20
#: Rows per cluster from which the centres are computed.
TRAINED_ROWS = 40


class Approximate:
    """An inverted file over the rows of a matrix. Not thread-safe.

    Args:
        numbers: (N,) identifiers of the rows.
        vectors: (N, D) of length 1.
        noise: length of the noise on the rows that the number of clusters to read is chosen by.
    """

    def __init__(self, numbers: Numbers, vectors: Vectors, seed: int = 0, noise: float = STAND_IN_NOISE) -> None:
        import faiss

        faiss.omp_set_num_threads(1)  # its threads would take the cores of the models
        count, size = vectors.shape
        clusters = max(1, int(4 * count**0.5))
        random = np.random.default_rng(seed)
        rows = random.choice(count, min(count, TRAINED_ROWS * clusters), replace=False)
        self._quantizer = faiss.IndexFlatIP(size)  # the index below only points to it
        self._index: Any = faiss.IndexIVFFlat(self._quantizer, size, clusters, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.seed = seed
        self._index.train(np.ascontiguousarray(vectors[rows]))
        self._index.add_with_ids(np.ascontiguousarray(vectors), np.ascontiguousarray(numbers))
        self.trained_on = count
        self._clusters = clusters
        self._searches = self._hits = self._wanted = 0
        self._choose_probes(numbers, vectors, random, noise)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def recall(self) -> float:
        """Share of the exact nearest rows that searches found since `probes` last changed; 1 before a comparison."""
        wanted = self._wanted  # read once: another thread may search meanwhile
        return min(self._hits / wanted, 1.0) if wanted else 1.0

    @property
    def probes(self) -> int:
        """The number of clusters that a search reads."""
        return int(self._index.nprobe)

    def add(self, number: int, vector: Vectors) -> None:
        """Add a row (D,) of length 1, with a number that is not in use."""
        self._index.add_with_ids(vector[None], np.asarray([number], dtype=np.int64))

    def remove(self, number: int) -> None:
        """Remove the row of this number."""
        self._index.remove_ids(np.asarray([number], dtype=np.int64))

    def search(self, vector: Vectors, count: int) -> tuple[Numbers, Vectors]:
        """(numbers, cosines) of up to `count` nearest rows, in arbitrary order."""
        self._searches += 1
        scores, numbers = self._index.search(vector[None], count)
        valid = numbers[0] >= 0
        return numbers[0][valid], scores[0][valid]

    @property
    def audit_due(self) -> bool:
        """Whether the last search is to be compared with the exact one."""
        return self._searches % AUDIT_EVERY == 0

    def audit(self, numbers: Numbers, exact: Numbers) -> None:
        """Compare the `numbers` of a search with the `exact` ones; below `RECALL` later searches read more clusters."""
        self._hits += int(np.isin(exact, numbers).sum())
        self._wanted += len(exact)
        if self._wanted >= AUDITS * len(exact) and self.recall < RECALL and self.probes < self._clusters:
            log.info("recall of the passages' index is %.3f: it reads %d clusters now", self.recall, 2 * self.probes)
            self._index.nprobe = min(2 * self.probes, self._clusters)
            self._hits = self._wanted = 0

    def _choose_probes(self, numbers: Numbers, vectors: Vectors, random: np.random.Generator, length: float) -> None:
        """Double the number of clusters that are read until stored rows find their exact neighbours."""
        count = len(numbers)
        rows = random.choice(count, min(SAMPLE_ROWS, count), replace=False)
        # Questions lie farther from passages than passages from each other.
        noise = length / vectors.shape[1] ** 0.5 * random.normal(size=(len(rows), vectors.shape[1]))
        questions = np.ascontiguousarray(vectors[rows] + noise, dtype=np.float32)
        wanted = min(NEIGHBOURS + 1, count)
        # One at a time: all cosines at once would take more memory than the index.
        exact = np.stack([numbers[np.argpartition(-(vectors @ one), wanted - 1)[:wanted]] for one in questions])
        probes = 1
        while True:
            self._index.nprobe = probes
            _, nearest = self._index.search(questions, wanted)
            self._hits = sum(int(np.isin(e, f).sum()) for e, f in zip(exact, nearest, strict=True))
            self._wanted = exact.size
            if self.recall >= RECALL or probes >= self._clusters:
                break
            probes = min(2 * probes, self._clusters)
        log.info(
            "%d passages in %d clusters, of which a search reads %d: recall %.3f",
            count, self._clusters, self.probes, self.recall,
        )  # fmt: skip
