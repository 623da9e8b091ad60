"""The passages nearest to a question: exact search over normalised embeddings in one matrix that is mapped from a file.

A product with the whole matrix is exact. 100,000 embeddings of 384 numbers are 154 MB.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

#: Rows that the matrix has room for at first; it doubles as it fills.
ROOM = 1024


@dataclass(frozen=True)
class Hit:
    """A passage and the cosine of its embedding with the question's."""

    passage: int
    score: float


class Index:
    """Embeddings of length 1 by the number of their passage, in a file that is mapped into memory.

    Threads may search while one adds or removes.

    Args:
        file: where the matrix is kept; it is made anew, since the database has every embedding.
        size: D, of an embedding.
    """

    def __init__(self, file: Path, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be 1 or more, got {size}")
        self._file, self._size = file, size
        self._lock = threading.Lock()
        self._numbers = np.empty(ROOM, dtype=np.int64)
        self._vectors = self._mapped(ROOM)
        self._count = 0
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, rows: Iterable[tuple[int, Vectors]]) -> None:
        """Add or replace embeddings (D,); each is normalised.

        Raises:
            ValueError: one of another size, or of length 0 or not finite.
        """
        for number, vector in rows:
            row = self.normal(vector)
            with self._lock:
                place = self._places.get(number)
                if place is None:
                    place = self._count
                    self._make_room(place + 1)
                    self._places[number] = place
                    self._numbers[place] = number
                    self._vectors[place] = row
                    self._count += 1
                else:
                    self._vectors[place] = row

    def remove(self, number: int) -> bool:
        """Remove a passage: the last row takes its place. Whether it was there."""
        with self._lock:
            place = self._places.pop(number, None)
            if place is None:
                return False
            last = self._count - 1
            if place != last:
                moved = int(self._numbers[last])
                self._vectors[place], self._numbers[place] = self._vectors[last], moved
                self._places[moved] = place
            self._count = last
            return True

    def search(self, question: Vectors, count: int) -> list[Hit]:
        """The `count` nearest passages to a question's embedding (D,), nearest first; equal ones by their number."""
        row = self.normal(question)
        with self._lock:
            numbers, scores = self._numbers[: self._count].copy(), self._vectors[: self._count] @ row
        count = min(count, len(numbers))
        if count == 0:
            return []
        nearest = np.argpartition(-scores, count - 1)[:count]
        order = nearest[np.lexsort((numbers[nearest], -scores[nearest]))]
        return [Hit(int(numbers[i]), float(scores[i])) for i in order]

    def normal(self, vector: Vectors) -> Vectors:
        """The vector (D,) with length 1. Raises ValueError: of another size, of length 0, or not finite."""
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
