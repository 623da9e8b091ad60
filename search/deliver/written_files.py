"""Records of the files that this program wrote into a folder of results; no other file there is ever removed.

Each folder has a record, `written.json`: names with the SHA-256 of what was written. A file that the record does not
name, or that was changed since, belongs to the user. It is kept, and renamed where its name is needed: `front.json`
becomes `front.kept.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.errors import UserError
from search.store import atomic
from search.store.owner import leftovers, temporary

WRITTEN_JSON = "written.json"
WRITTEN_FILES_VERSION = 1


@dataclass
class WrittenFiles:
    """The record of one folder."""

    folder: Path
    #: SHA-256 by name; several while a file is replaced; none for files that a runtime may write again.
    files: dict[str, list[str]] = field(default_factory=dict)
    #: Names of folders in this one that have records of their own.
    folders: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> WrittenFiles:
        """The record in `folder`; an empty one where there is none or it is invalid, so that nothing is removed."""
        try:
            data = json.loads((folder / WRITTEN_JSON).read_text(encoding="utf-8"))
            if data["schema_version"] != WRITTEN_FILES_VERSION:
                raise ValueError
            files = {str(name): [str(digest) for digest in digests] for name, digests in data["files"].items()}
            return cls(folder, files, [str(name) for name in data["folders"] if _plain(name)])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(folder)

    def save(self) -> None:
        """Write the record atomically; a user's file of its name is renamed."""
        if (self.folder / WRITTEN_JSON).exists() and not _is_record(self.folder / WRITTEN_JSON):
            _set_aside(self.folder / WRITTEN_JSON)
        data = {"schema_version": WRITTEN_FILES_VERSION, "files": self.files, "folders": self.folders}
        atomic.write_text(self.folder / WRITTEN_JSON, json.dumps(data, indent=1) + "\n")

    def wrote(self, name: str) -> bool:
        """Whether the file called `name` is there as this program wrote it."""
        path = self.folder / name
        if name == WRITTEN_JSON:
            return _is_record(path)
        if name not in self.files or path.is_symlink() or not path.is_file():
            return False
        digests = self.files[name]
        return not digests or sha256(path) in digests

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary path; what the block writes there becomes `name`. A user's file of that name is renamed."""
        path = self.folder / name
        with atomic.replacing(path) as partial:
            yield partial
            digest = sha256(partial)
            if os.path.lexists(path) and not self.wrote(name):
                _set_aside(path)
                self.files.pop(name, None)
            self.files[name] = [*self.files.get(name, []), digest]
            self.save()  # before the file is in its place: whatever a kill leaves there is known
        self.files[name] = [digest]

    def remove(self, name: str) -> None:
        """Remove the file called `name` if this program wrote it; `save` then stores the record without it."""
        if self.wrote(name):
            (self.folder / name).unlink()
        self.files.pop(name, None)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing_folder(path: Path, made_again: Sequence[str] = ()) -> Iterator[Path]:
    """A new folder that takes the place of `path` in one step when the block succeeds.

    The files that the block writes in it are recorded, those of `made_again` without digests. Files of the user in the
    old folder move into the new one.
    """
    mend(path.parent, path.name)
    partial, whole = temporary(path, atomic.PARTIAL), temporary(path, atomic.SWAP)
    partial.mkdir(parents=True)
    try:
        yield partial
        names = [str(p.relative_to(partial)) for p in sorted(partial.rglob("*")) if p.is_file()]
        WrittenFiles(partial, {n: [] if n in made_again else [sha256(partial / n)] for n in names}).save()
        partial.rename(whole)
        old = atomic.swap(whole, path)
    except BaseException:
        atomic.remove(partial)
        take_away(whole, path)  # the new folder, or the old one if the two have changed places already
        raise
    if old is not None:
        take_away(old, path)


def mend(folder: Path, name: str = "*") -> None:
    """Finish or undo the replacements of `name` in `folder` that killed processes left unfinished."""
    atomic.put_back(folder, name)
    for left in leftovers(folder, name):
        if left.kind == atomic.PARTIAL:
            atomic.remove(left.path)
        elif left.kind in (atomic.SWAP, atomic.OLD):
            take_away(left.path, folder / left.name)


def take_away(folder: Path, keep_in: Path | None = None, first: Sequence[str] = ()) -> None:
    """Remove the files that this program wrote from `folder`, `first` before the rest, and the folder if it is empty.

    Files of the user move to the same place in `keep_in`; without that they stay.
    """
    if folder.is_symlink() or not folder.is_dir():
        if os.path.lexists(folder) and keep_in is not None:
            folder.rename(_free(keep_in))
        return
    record = WrittenFiles.read(folder)
    ours = {str(parent) for name in record.files for parent in Path(name).parents}
    names = sorted(_leaves(folder) - ours, key=lambda name: (name not in first, name))
    for name in names:
        if name == WRITTEN_JSON:
            continue
        if record.wrote(name):
            (folder / name).unlink()
        elif keep_in is not None:
            _move(folder / name, keep_in / name, keep_in)
    for path in sorted((p for p in folder.rglob("*") if p.is_dir() and not p.is_symlink()), reverse=True):
        if not any(path.iterdir()) and str(path.relative_to(folder)) not in names:
            path.rmdir()
    if record.wrote(WRITTEN_JSON):  # last, so that what a kill cuts short can be finished
        (folder / WRITTEN_JSON).unlink()
    elif keep_in is not None and WRITTEN_JSON in names:
        _move(folder / WRITTEN_JSON, keep_in / WRITTEN_JSON, keep_in)
    if not any(folder.iterdir()):
        folder.rmdir()


def _leaves(folder: Path) -> set[str]:
    """Names of all files, links and empty folders in `folder`, relative to it."""
    inside = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir() or not any(p.iterdir()))
    return {str(p.relative_to(folder)) for p in inside}


def free_folder(to: Path, flag: str = "--to") -> Path:
    """`to`, where a folder can be created without changing existing files. `flag` names the option in messages.

    Raises:
        UserError: `to` exists and is not an empty folder, or its parent is not writable.
    """
    rule = f"{flag}: must be a folder that does not exist or is empty, got {to}"
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        raise UserError(f"{rule}, which is a {'link' if to.is_symlink() else 'file'}")
    if to.is_dir():
        inside = sorted(path.name for path in to.iterdir())
        if inside:
            more = f" and {len(inside) - 1} more" if len(inside) > 1 else ""
            raise UserError(f"{rule}, which holds {inside[0]}{more}")
    above = next(path for path in to.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{flag}: must be where a folder can be made, got {to} ({above} cannot be written in)")
    return to


def _is_record(path: Path) -> bool:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(data, dict) and data.keys() == {"schema_version", "files", "folders"}
    except (OSError, ValueError):
        return False


def _plain(name: Any) -> bool:
    """Whether a folder's name in a record leads no further than into the folder of the record."""
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _set_aside(path: Path) -> None:
    path.rename(_free(path))


def _free(path: Path) -> Path:
    """The first name of the form `name.kept.suffix`, `name.kept-2.suffix` ... that nothing has."""
    number = 1
    while True:
        mark = ".kept" if number == 1 else f".kept-{number}"
        path_beside = path.with_name(f"{path.stem}{mark}{path.suffix}")
        if not os.path.lexists(path_beside):
            return path_beside
        number += 1


def _move(path: Path, to: Path, top: Path) -> None:
    """Move a file or an empty folder to `to`, or beside it where something is there."""
    if path.is_dir() and not path.is_symlink() and to.is_dir():
        path.rmdir()
        return
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):  # one of its folders is a file now
        to = top / to.name
    path.rename(_free(to) if os.path.lexists(to) else to)
