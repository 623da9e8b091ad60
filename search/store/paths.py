"""Paths inside a results folder, stored so that the folder can be moved as a whole; and the folders of users."""

from __future__ import annotations

import os
from pathlib import Path


def inside(results: Path, path: Path) -> str:
    """`path` as it is stored: relative to the folder `results` if it is inside it, else absolute."""
    return path.relative_to(results).as_posix() if path.is_relative_to(results) else str(path)


def located(results: Path, written: str) -> Path:
    """The current path of one that `inside` gave."""
    return results / written


def expanded(path: str | Path) -> Path:
    """`path` with a user's folder for `~` or `~user`; unchanged where no such user is known, as of a file of that name.

    (`Path.expanduser` raises RuntimeError there.)
    """
    return Path(os.path.expanduser(path))
