"""Content-addressed store of the results of stages, so that no trial or later search repeats another's work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.store.atomic import sweep
from search.store.entry import Entry
from search.store.locks import alone_in
from search.store.owner import Owner, beat, beating, now_in, rest, silent, temporary, this_process
from spaces.recipe import digest_of

MANIFEST = "entry.json"
LEASES = ".leases"
SCRATCH = ".scratch"
SCRATCH_S = 7 * 24 * 3600.0  # unfinished files older than this are abandoned
HALF_WRITTEN_S = 24 * 3600.0
#: Versions by stage, raised whenever the code gives another result for the same key (1 for stages not named).
#: The key of "data", which are quick to make again, has a digest of the code instead.
CODE_VERSIONS = {"teacher": 5, "statistics": 4, "weights": 7, "predictions": 2}


@dataclass(frozen=True)
class Store:
    """Folders `<root>/<stage>/<digest>/`, each written under a temporary name and renamed when whole.

    An entry's manifest lists its files with size and SHA-256; one that does not match is discarded and remade. A
    process hashes an entry once, and again where the size or times of a file have changed.
    Safe with several threads, processes, containers and hosts on one folder: the first rename wins, and the equal work
        of others is dropped. Above `limit` bytes the least recently used entries are removed, but none that was used
        since the oldest running process of this store began; each process has a file in `.leases` (`search.store.owner`
        tells which processes are alive). States from which the building of an entry resumes after a kill are in
        `.scratch`; they count towards the limit and are removed first.
    """

    root: Path
    limit: int | None = None  # bytes

    def path(self, stage: str, key: Mapping[str, Any]) -> Path:
        return self.root / stage / digest_of({"key": key, "code": CODE_VERSIONS.get(stage, 1)})

    def scratch(self, stage: str, key: Mapping[str, Any]) -> Path:
        """The path for the state from which building this entry resumes.

        `make` removes it once the entry is complete.
        """
        (self.root / SCRATCH).mkdir(parents=True, exist_ok=True)
        return self._scratch(self.path(stage, key))

    def _scratch(self, entry: Path) -> Path:
        return self.root / SCRATCH / f"{entry.parent.name}-{entry.name}.safetensors"

    def drop_scratch(self, stage: str, key: Mapping[str, Any]) -> None:
        """Remove the state of building this entry, which will not be resumed."""
        self._drop(self._scratch(self.path(stage, key)))

    def _drop(self, begun: Path) -> None:
        for path in begun.parent.glob(f"{begun.stem}.*"):  # and what was noted beside it
            path.unlink(missing_ok=True)

    def find(self, stage: str, key: Mapping[str, Any]) -> Path | None:
        """The entry's folder; None where it is absent, or damaged and hence removed."""
        folder = self.path(stage, key)
        if not folder.exists():
            return None
        if not self.use(folder):
            self._discard(folder)
            return None
        return folder

    def use(self, folder: Path) -> bool:
        """Whether the entry in `folder` is there and whole; then it is not removed while this process lives."""
        if not _whole(folder):
            return False
        self._use(folder)
        return True

    def _discard(self, folder: Path) -> None:
        """Remove a damaged entry, unless another process has made it again by now."""
        aside = temporary(folder)
        with suppress(OSError):
            with alone_in(self.root):
                if _whole(folder):
                    return
                folder.rename(aside)  # at once, so that nobody finds half of it
            shutil.rmtree(aside)

    def make(
        self,
        stage: str,
        key: Mapping[str, Any],
        build: Callable[[Path], None],
        about: Mapping[str, Any] | None = None,
    ) -> tuple[Path, bool]:
        """(folder of the entry, whether it was built now). `build(folder)` fills an empty folder.

        `about` is stored with it for `abouts`. Exceptions of `build` are raised, and leave only
        the entry's scratch file.
        """
        entry = self.find(stage, key)
        if entry is not None:
            return entry, False
        final = self.path(stage, key)
        partial = temporary(final)
        partial.mkdir(parents=True)
        try:
            with beating(partial):
                build(partial)
                files = _files(partial)
                manifest = {"stage": stage, "key": key, "about": about or {}, "files": files}
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
            try:
                partial.rename(final)
                VERIFIED[final] = _signature(final, files)
            except OSError:  # another process was faster
                if not final.exists():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._use(final)
        self._drop(self._scratch(final))
        if self.limit is not None:
            self.prune(self.limit)
        return final, True

    def abouts(self, stage: str) -> dict[Path, dict[str, Any]]:
        """The `about` of all entries of a stage, by folder; damage shows only when an entry is used."""
        abouts = {}
        for manifest in self.root.glob(f"{stage}/[!.]*/{MANIFEST}"):
            with suppress(OSError, json.JSONDecodeError):
                abouts[manifest.parent] = json.loads(manifest.read_text()).get("about", {})
        return abouts

    def entries(self) -> list[Entry]:
        """All entries, least recently used first."""
        return sorted(self._entries(), key=lambda entry: entry.used)

    def _entries(self) -> Iterator[Entry]:
        for manifest in self.root.glob(f"[!.]*/[!.]*/{MANIFEST}"):
            with suppress(FileNotFoundError):  # another process removed it
                yield Entry.of(manifest.parent)

    def prune(self, limit: int) -> list[Entry]:
        """Remove least recently used entries until at most `limit` bytes, or only entries in use, are left.

        Files with a hard link elsewhere, as in an export, do not count, and entries that consist of them stay: their
        removal would free nothing.
        """
        if not self.root.is_dir():
            return []
        self._sweep_scratch()
        removed = []
        with alone_in(self.root):
            entries, began = self.entries(), self._oldest_lease()
            total = sum(entry.freed for entry in entries)
            total += self._prune_scratch(limit - total, began)
            for entry in entries:
                if total <= limit or entry.used >= began:
                    break
                if entry.linked:
                    continue
                aside = temporary(entry.folder)
                entry.folder.rename(aside)  # at once, so that nobody finds half of it
                shutil.rmtree(aside, ignore_errors=True)
                total -= entry.freed
                removed.append(entry)
        return removed

    def _lease(self) -> None:
        """Record that this process uses the store, so that entries it uses are not removed while it lives."""
        mine = self.root / LEASES / str(this_process())
        if mine.exists():
            return
        mine.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), mine.open("x") as file:  # of another thread
            file.write(str(os.fstat(file.fileno()).st_mtime))  # signs of life change the file's own time
            beat(mine)

    def release(self) -> None:
        """End this process's use of the store."""
        mine = self.root / LEASES / str(this_process())
        rest(mine)
        with suppress(OSError):
            mine.unlink()

    def _oldest_lease(self) -> float:
        """When the oldest process that uses the store began; leases of those that have ended are removed."""
        now = began = now_in(self.root)
        for lease in (self.root / LEASES).glob("*"):
            owner = Owner.parse(lease.name)
            if silent(lease, now) if owner is None else owner.gone(lease, now):
                lease.unlink(missing_ok=True)
                continue
            with suppress(FileNotFoundError):
                try:
                    began = min(began, float(lease.read_text()))
                except ValueError:  # not written yet
                    began = min(began, lease.stat().st_mtime)
        return began

    def _use(self, folder: Path) -> None:
        """Note the time of use as the folder's time of change, which reading what is in it does not touch."""
        with suppress(OSError):  # removed meanwhile, or nothing can be written here
            self._lease()
            os.utime(folder)

    def sweep(self) -> None:
        """Remove incomplete entries of processes that no longer run."""
        for stage in self.root.glob("[!.]*/"):
            sweep(stage)
        self._sweep_scratch()

    def _prune_scratch(self, limit: int, began: float) -> int:
        """Bytes of scratch files that are left, once the oldest that nobody uses are gone as far as `limit` asks."""
        files = []
        for path in (self.root / SCRATCH).glob("[!.]*"):
            with suppress(FileNotFoundError):
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for touched, size, path in sorted(files):
            if total <= limit or touched >= began:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    def _sweep_scratch(self) -> None:
        """Remove scratch files that were not touched for a week, and those left half written."""
        sweep(self.root / SCRATCH)
        for path in (self.root / SCRATCH).glob("*"):
            # A state is written in minutes, under a hidden name that does not identify its process.
            if _age_s(path) > (HALF_WRITTEN_S if path.name.startswith(".") else SCRATCH_S):
                path.unlink(missing_ok=True)


def _age_s(path: Path) -> float:
    """Seconds since it was last changed; 0 where another process has removed it."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _files(folder: Path) -> dict[str, list[Any]]:
    """Size and SHA-256 by relative path."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        files[str(path.relative_to(folder))] = [path.stat().st_size, sha256_of(path)]
    return files


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_in(entry: Path, name: str) -> str:
    """SHA-256 of a file at the time when the entry was built."""
    return str(json.loads((entry / MANIFEST).read_text())["files"][name][1])


#: Entries whose hashes this process has checked, with what their files were like then.
VERIFIED: dict[Path, list[tuple[int, ...]]] = {}


def _signature(folder: Path, files: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Sizes and times of the files, which change when one is written. Raises FileNotFoundError."""
    stats = [(folder / name).stat() for name in files]
    return [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in stats]


def _whole(folder: Path) -> bool:
    try:
        wanted = json.loads((folder / MANIFEST).read_text())["files"]
        before = _signature(folder, wanted)
    except (OSError, json.JSONDecodeError, KeyError):
        return False
    if VERIFIED.get(folder) == before:
        return True
    for (name, (size, digest)), (length, *_) in zip(wanted.items(), before, strict=True):
        path = folder / name
        if not path.is_file() or length != size or sha256_of(path) != digest:
            return False
    VERIFIED[folder] = before
    return True
