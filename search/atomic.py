"""Files and folders that a reader sees whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` when the block succeeds.

    The block makes a file or a folder there. An older folder at `path` is moved aside first and removed last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    remove(partial)
    try:
        yield partial
        if partial.is_dir() and path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            partial.rename(path)
            remove(old)
        else:
            partial.replace(path)
    finally:
        remove(partial)


def write_text(path: Path, content: str) -> None:
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove from `folder` itself what `replacing` left there in processes that were killed."""
    for path in folder.glob(".*.*"):
        owner = path.name.removesuffix(".old").rpartition(".")[2]
        if owner.isdigit() and not alive(int(owner)):
            remove(path)


def alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
