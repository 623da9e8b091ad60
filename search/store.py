"""Content-addressed store of what stages made: no trial, and no later search, repeats another's work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.atomic import alive
from spaces.recipe import digest_of

MANIFEST = "entry.json"
#: By stage, raised whenever its code changes what it makes from the same key (1 where it is not named).
CODE_VERSIONS = {"teacher": 2, "statistics": 3, "weights": 4, "predictions": 2}


@dataclass(frozen=True)
class Store:
    """Folders `<root>/<stage>/<digest>/`, each written under a temporary name and renamed when whole.

    An entry's manifest lists its files with size and SHA-256; one that does not match is discarded and remade.
    Safe with several processes: whoever renames first wins, and the others' equal work is dropped.
    """

    root: Path

    def path(self, stage: str, key: Mapping[str, Any]) -> Path:
        return self.root / stage / digest_of({"key": key, "code": CODE_VERSIONS.get(stage, 1)})

    def find(self, stage: str, key: Mapping[str, Any]) -> Path | None:
        """The entry's folder, or None when it is absent or damaged (then it is removed)."""
        folder = self.path(stage, key)
        if not folder.exists():
            return None
        if not _whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return folder

    def make(self, stage: str, key: Mapping[str, Any], build: Callable[[Path], None]) -> tuple[Path, bool]:
        """(folder of the entry, whether it was made now). `build(folder)` fills an empty folder.

        What `build` raises passes through, and leaves nothing behind.
        """
        found = self.find(stage, key)
        if found is not None:
            return found, False
        final = self.path(stage, key)
        partial = final.with_name(f".{final.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            build(partial)
            manifest = {"stage": stage, "key": key, "files": _files(partial)}
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
            try:
                partial.rename(final)
            except OSError:  # another process was faster
                if not final.exists():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return final, True

    def sweep(self) -> None:
        """Remove what processes that no longer run left half made."""
        for partial in self.root.glob("*/.*"):
            owner = partial.name.rpartition(".")[2]
            if owner.isdigit() and not alive(int(owner)):
                shutil.rmtree(partial, ignore_errors=True)


def _files(folder: Path) -> dict[str, list[Any]]:
    """Size and SHA-256 by relative path."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[str(path.relative_to(folder))] = [path.stat().st_size, digest]
    return found


def _whole(folder: Path) -> bool:
    try:
        wanted = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, json.JSONDecodeError, KeyError):
        return False
    for name, (size, digest) in wanted.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return False
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return False
    return True
