"""Atomic writes of files and folders: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from search.store.owner import leftovers, temporary

#: Kinds of temporary names. An unfinished file belongs to its process, and is useless once that has ended.
PARTIAL = "partial"
#: A folder that changes places with another: whole, and either the new one or the old one.
SWAP = "swap"
#: What stood at the place of a new folder, where the two could not change places in one step.
OLD = "old"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder; the file that the block makes there takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path, PARTIAL)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove incomplete files of ended processes from `folder` itself."""
    for left in leftovers(folder):
        if left.kind == PARTIAL:
            remove(left.path)


def swap(new: Path, path: Path) -> Path | None:
    """Put the folder `new` at `path`; returns the new place of the folder that was there, or None.

    One step where kernel and file system can exchange two names. Elsewhere it is two: a kill between them leaves
    nothing at `path`, and `put_back` mends that.
    """
    if not os.path.lexists(path):
        new.rename(path)
        return None
    if exchange_names(new, path):
        return new
    old = temporary(path, OLD)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    return old


def put_back(folder: Path, name: str = "*") -> None:
    """Undo swaps in `folder` (of `name`) that a kill cut short between their two steps."""
    for left in leftovers(folder, name):
        path = folder / left.name
        if left.kind == OLD and not os.path.lexists(path):
            left.path.rename(path)


def exchange_names(a: Path, b: Path) -> bool:
    """Exchange two names of one file system in one step; False where that cannot be done."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # not Linux, or a C library without it
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), str(b))
