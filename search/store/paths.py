"""Paths inside a results folder, written down so that the folder can be moved as a whole."""

from __future__ import annotations

from pathlib import Path


def inside(results: Path, path: Path) -> str:
    """`path` as it is written down: relative to the folder `results` where it lies in it, absolute elsewhere."""
    return path.relative_to(results).as_posix() if path.is_relative_to(results) else str(path)


def located(results: Path, written: str) -> Path:
    """Where what was written down by `inside` lies now."""
    return results / written
