"""A bounded cache that evicts the least recently used entry, and ignores entries older than their time to live."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Stored = TypeVar("Stored")


class TtlCache(Generic[Key, Stored]):
    """Least recently used, with a time to live. Thread-safe.

    Args:
        bound: most entries; 0 stores nothing.
        live_s: seconds after which an entry is no longer returned.
        weight: the bytes of an entry.
        budget: most bytes of all entries together; a larger entry is not stored.
    """

    def __init__(
        self,
        bound: int,
        live_s: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
        weight: Callable[[Key, Stored], int] = lambda key, value: 0,
        budget: float = float("inf"),
    ) -> None:
        self._bound, self._live_s, self._clock = bound, live_s, clock
        self._weight, self._budget = weight, budget
        self._entries: OrderedDict[Key, tuple[float, Stored, int]] = OrderedDict()
        self.bytes = 0
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Stored | None:
        """The value of a key; None where there is none, or it is too old."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or self._clock() - entry[0] > self._live_s:
                self._drop(key)
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[1]

    def put(self, key: Key, value: Stored) -> None:
        """Store a value, and evict others where there is no room."""
        weight = self._weight(key, value)
        with self._lock:
            self._drop(key)
            if weight > self._budget:
                return
            self._entries[key] = (self._clock(), value, weight)
            self.bytes += weight
            while self._entries and (len(self._entries) > self._bound or self.bytes > self._budget):
                self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        self.bytes -= 0 if entry is None else entry[2]
