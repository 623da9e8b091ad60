"""One process a study: a second one is told who holds it."""

from __future__ import annotations

import fcntl
import os
import platform
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TextIO

from search.errors import UserError

#: Another program's write to a database is waited for so long.
BUSY_S = 10.0


@contextmanager
def study_lock(mlruns: Path, study: str) -> Iterator[None]:
    """Hold the study's lock; the kernel drops it when the process ends, however it ends.

    Raises:
        UserError: another process holds it; names that process.
    """
    path = mlruns / "locks" / f"{study}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path, study) as file:
        file.truncate(0)
        file.write(_this_process())
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _held(path: Path, study: str) -> TextIO:
    """The file at `path`, open and locked."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip().removesuffix(f" on {platform.node()}") or "unknown"
            file.close()
            raise UserError(
                f"--study {study}: must not be running already, and process {holder} is running it; "
                "wait for it, or choose another name with --study NAME"
            ) from None
        # Whoever held it may have removed it between our opening and our locking it.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()


def _this_process() -> str:
    return f"{os.getpid()} on {platform.node()}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this same block for `folder`."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
        except OSError:  # network file systems lock only what is open for writing
            os.close(opened)
            opened = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def check_writable(database: Path) -> None:
    """Whether an SQLite database, if it is there, can be written to now.

    Raises:
        UserError: another program holds it, it is no database, or it may not be written.
    """
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_S, isolation_level=None)) as opened:
            opened.execute("BEGIN IMMEDIATE")
            opened.execute("ROLLBACK")
    except sqlite3.Error as error:
        reason = f"another program holds it (waited {BUSY_S:g} s)" if "locked" in str(error) else str(error)
        raise UserError(
            f"mlruns: must be a folder with databases that can be written, got {database}: {reason}"
        ) from None
