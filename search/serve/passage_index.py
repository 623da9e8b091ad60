"""The passages nearest to a question: normalised embeddings in one matrix that is mapped from a file.

A product with the whole matrix is exact. 100,000 embeddings of 384 dimensions are 154 MB, which are read for each
question; above that an inverted file (`search.serve.approximate`) selects the rows to compare.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.serve.approximate import NEIGHBOURS, Approximate, Vectors

log = logging.getLogger(__name__)


#: Initial capacity of the matrix in rows; it doubles when it is full.
INITIAL_ROWS = 1024
#: Rows up to which search is exact. An inverted file is rebuilt when there are twice as many rows as it was built on.
EXACT = 100_000


@dataclass(frozen=True)
class Hit:
    """A passage and the cosine of its embedding with the question's."""

    passage: int
    score: float


class Index:
    """Embeddings of length 1 by the number of their passage, in a file that is mapped into memory.

    Threads may search while one adds or removes.

    Args:
        file: of the matrix; it is written anew, because the database has every embedding.
        size: D, the dimension of an embedding.
        exact: rows up to which search is exact; without faiss it always is.
    """

    def __init__(self, file: Path, size: int, exact: int = EXACT) -> None:
        if size < 1:
            raise ValueError(f"size must be 1 or more, got {size}")
        self._file, self._size = file, size
        self._lock = threading.Lock()
        self._numbers = np.empty(INITIAL_ROWS, dtype=np.int64)
        self._vectors = self._mapped(INITIAL_ROWS)
        self._count = 0
        self._slot_of: dict[int, int] = {}
        self._exact = exact
        self.approximate: Approximate | None = None  # says which rows are compared, where there are many

    def __len__(self) -> int:
        return self._count

    @property
    def recall(self) -> float:
        """Measured share of the exact nearest passages that searches find; 1 where search is exact."""
        approximate = self.approximate  # without the lock: an exact search holds it for long
        return 1.0 if approximate is None else approximate.recall

    def add(self, rows: Iterable[tuple[int, Vectors]]) -> None:
        """Add or replace embeddings (D,); each is normalised.

        Raises:
            ValueError: an embedding of another dimension, of length 0, or not finite.
        """
        for number, vector in rows:
            row = self.normal(vector)
            with self._lock:
                slot = self._slot_of.get(number)
                if slot is None:
                    slot = self._count
                    self._make_room(slot + 1)
                    self._slot_of[number] = slot
                    self._numbers[slot] = number
                    self._count += 1
                elif self.approximate is not None:
                    self.approximate.remove(number)
                self._vectors[slot] = row
                if self.approximate is not None:
                    self.approximate.add(number, row)
        self._build_where_due()  # once: for a whole store, an inverted file of all its rows

    def remove(self, number: int) -> bool:
        """Remove a passage, whose slot the last one takes; returns whether it was there."""
        with self._lock:
            slot = self._slot_of.pop(number, None)
            if slot is None:
                return False
            last = self._count - 1
            if slot != last:
                moved = int(self._numbers[last])
                self._vectors[slot], self._numbers[slot] = self._vectors[last], moved
                self._slot_of[moved] = slot
            self._count = last
            if self.approximate is not None:
                self.approximate.remove(number)
            return True

    def search(self, question: Vectors, count: int) -> list[Hit]:
        """The `count` passages nearest to a question's embedding (D,), nearest first; equally near ones by number."""
        row = self.normal(question)
        with self._lock:
            count = min(count, self._count)
            if count == 0:
                return []
            if self.approximate is None:
                numbers, scores = self._nearest(row, count)
            else:
                numbers, scores = self.approximate.search(row, max(count, NEIGHBOURS))
                if self.approximate.audit_due or len(numbers) < count:
                    approximate = numbers
                    numbers, scores = self._nearest(row, max(count, min(NEIGHBOURS, self._count)))
                    self.approximate.audit(approximate, numbers)
        order = np.lexsort((numbers, -scores))[:count]
        return [Hit(int(numbers[i]), float(scores[i])) for i in order]

    def _nearest(self, row: Vectors, count: int) -> tuple[NDArray[np.int64], Vectors]:
        """(numbers, cosines) of the nearest passages by all cosines, in no order."""
        scores = self._vectors[: self._count] @ row
        nearest = np.argpartition(-scores, count - 1)[:count]
        return self._numbers[nearest], scores[nearest]

    def _build_where_due(self) -> None:
        """Build the inverted file, or a new one; searches go on meanwhile. For the one thread that adds."""
        built_on = 0 if self.approximate is None else self.approximate.trained_on
        if self._count <= max(self._exact, 2 * built_on):
            return
        if importlib.util.find_spec("faiss") is None:
            log.warning("%d passages are searched one by one; faiss-cpu is not installed", self._count)
            self._exact = 2 * self._count  # said again when there are twice as many
            return
        built = Approximate(self._numbers[: self._count].copy(), np.array(self._vectors[: self._count]))
        with self._lock:
            self.approximate = built

    def normal(self, vector: Vectors) -> Vectors:
        """The vector (D,) scaled to length 1. Raises ValueError for another shape, length 0, or values not finite."""
        if vector.shape != (self._size,):
            raise ValueError(f"an embedding must be of shape ({self._size},), got {vector.shape}")
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length == 0:
            raise ValueError(f"an embedding must have a length above 0, got {length}")
        return (vector / length).astype(np.float32)

    def _make_room(self, rows: int) -> None:
        room = len(self._vectors)
        if rows <= room:
            return
        vectors = self._mapped(2 * room)
        vectors[: self._count] = self._vectors[: self._count]
        self._vectors = vectors
        self._numbers = np.concatenate([self._numbers, np.empty(room, dtype=np.int64)])

    def _mapped(self, rows: int) -> np.memmap:
        # A file that is mapped must not be cut: who reads behind its new end dies of SIGBUS. What has it keeps it.
        self._file.unlink(missing_ok=True)
        return np.memmap(self._file, dtype=np.float32, mode="w+", shape=(rows, self._size))
