"""One folder of the store: how large it is, and when it was used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One folder of the store."""

    folder: Path
    bytes: int
    freed: int  # bytes that removing it frees: those of files without another hard link, as an export is
    used: float  # seconds since the epoch

    @classmethod
    def of(cls, folder: Path) -> Entry:
        """The entry in `folder` as it is now. Raises FileNotFoundError."""
        files = [path.lstat() for path in folder.rglob("*") if path.is_file()]
        freed = sum(file.st_size for file in files if file.st_nlink == 1)
        return cls(folder, sum(file.st_size for file in files), freed, folder.stat().st_mtime)

    @property
    def stage(self) -> str:
        return self.folder.parent.name

    @property
    def linked(self) -> bool:
        """Whether most of its bytes are in hard links elsewhere too, and stay on disk without it."""
        return 2 * self.freed < self.bytes
