"""Paths inside a results folder, stored so that the folder can be moved as a whole."""

from __future__ import annotations

from pathlib import Path


def inside(results: Path, path: Path) -> str:
    """`path` as it is stored: relative to the folder `results` if it is inside it, else absolute."""
    return path.relative_to(results).as_posix() if path.is_relative_to(results) else str(path)


def located(results: Path, written: str) -> Path:
    """The current path of one that `inside` gave."""
    return results / written
