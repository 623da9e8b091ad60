"""The content of the store, as lines for the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from search.store.store import Entry, Store


def cache_lines(store: Store) -> Iterator[str]:
    """A line per stage: entries, size, and the last use; then the sum."""
    entries = store.entries()
    for stage in sorted({entry.stage for entry in entries}):
        of_stage = [entry for entry in entries if entry.stage == stage]
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(entry.used for entry in of_stage)))
        yield f"{stage:<12} {len(of_stage):>5} entries  {gigabytes(of_stage):>8.2f} GB  last used {last}"
    yield f"{'in all':<12} {len(entries):>5} entries  {gigabytes(entries):>8.2f} GB  {store.root}"


def removed_line(removed: Sequence[Entry]) -> str:
    """A line about removed entries."""
    return f"removed {len(removed)} entries, {gigabytes(removed):.2f} GB"


def gigabytes(entries: Sequence[Entry]) -> float:
    return sum(entry.bytes for entry in entries) / 1e9
