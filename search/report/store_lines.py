"""The content of the store, and the disk that results take, as lines for the terminal."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from search.store.entry import Entry
from search.store.hard_links import disk_bytes
from search.store.store import Store


def cache_lines(store: Store) -> Iterator[str]:
    """A line per stage: entries, size, and the last use; then the sum, and how much of it exports hold too."""
    entries = store.entries()
    for stage in sorted({entry.stage for entry in entries}):
        of_stage = [entry for entry in entries if entry.stage == stage]
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(entry.used for entry in of_stage)))
        yield f"{stage:<12} {len(of_stage):>5} entries  {gigabytes(of_stage):>8.2f} GB  last used {last}"
    yield f"{'in all':<12} {len(entries):>5} entries  {gigabytes(entries):>8.2f} GB  {store.root}"
    linked = sum(entry.bytes - entry.freed for entry in entries)
    if linked:
        yield f"{'hard links to exports':<28}{linked / 1e9:>8.2f} GB  on disk once, and not counted by --max-gb"


def removed_line(removed: Sequence[Entry]) -> str:
    """A line about removed entries."""
    return f"removed {len(removed)} entries, {sum(entry.freed for entry in removed) / 1e9:.2f} GB"


def disk_line(results: Path, exports: Path) -> str:
    """A line about the disk that a study's export and its results folder take, and the command that frees some."""
    store = Store(results / "cache")
    freed = sum(entry.freed for entry in store.entries() if not entry.linked) / 1e9
    command = "python -m search cache --max-gb 0"
    if results.absolute() != Path("mlruns").absolute():
        command += f" --mlruns {shlex.quote(str(results))}"
    return (
        f"disk: {disk_bytes(exports) / 1e9:.2f} GB; all of {results} takes {disk_bytes(results) / 1e9:.2f} GB, of which"
        f" {command} frees {freed:.2f} GB (later runs make again what they need of it)"
    )


def gigabytes(entries: Sequence[Entry]) -> float:
    return sum(entry.bytes for entry in entries) / 1e9
