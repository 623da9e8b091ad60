"""Locks: one process per study; the error that a second one gets names the holder."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from search.errors import UserError

#: Another program's write to a database is waited for so long.
BUSY_S = 10.0
#: The file in a folder that whoever is alone in the folder holds. It stays.
LOCK = ".lock"


@contextmanager
def study_lock(mlruns: Path, study: str) -> Iterator[None]:
    """Hold the study's lock; the kernel drops it when the process ends, however it ends.

    Raises:
        UserError: another process holds it; names that process.
    """
    path = mlruns / "locks" / f"{study}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"--study {study}: must not be running already, and process {_holder(path)} is running it; "
            "wait for it, or choose another name with --study NAME"
        ) from None
    try:
        path.write_text(f"{os.getpid()} on {platform.node()}")
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held; who takes it next looks whether the file is still there
        lock.release()


def _holder(path: Path) -> str:
    """The process that holds the lock at `path`, as it recorded itself."""
    try:
        written = path.read_text().strip()
    except FileNotFoundError:  # it has just ended
        written = ""
    return written.removesuffix(f" on {platform.node()}") or "unknown"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process, and no other thread, is in this same block for `folder`."""
    with FileLock(folder / LOCK, fallback_to_soft=False):
        yield


def check_writable(database: Path) -> None:
    """Whether an SQLite database, if it is there, can be written to now.

    Raises:
        UserError: another program holds it, it is no database, or it is not writable.
    """
    if not database.exists():
        return
    rule = "mlruns: must be a folder with databases that can be written"
    if not os.access(database, os.W_OK):  # SQLite opens it to read, and says so at the first write
        raise UserError(f"{rule}, got {database}: it is read-only")
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_S, isolation_level=None)) as opened:
            opened.execute("BEGIN IMMEDIATE")
            opened.execute("ROLLBACK")
    except sqlite3.Error as error:
        reason = f"another program holds it (waited {BUSY_S:g} s)" if "locked" in str(error) else str(error)
        raise UserError(f"{rule}, got {database}: {reason}") from None
