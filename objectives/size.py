"""The size of a model: bytes on disk, and parameters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from objectives.measurement import Measurement, Objective

SIZE = Objective("size_mb", "MB", "lower", "weight files on disk, in MB of 1e6 bytes")
PARAMETERS = Objective("params", "count", "lower", "parameters of the model, each counted once")

OBJECTIVES = (SIZE, PARAMETERS)


def size(folder: Path, files: Iterable[str]) -> Measurement:
    """The size of weight files, in MB of 1e6 bytes; `files` are paths inside `folder`, each counted once.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    names = sorted(set(files))
    total = sum((folder / name).stat().st_size for name in names)
    return SIZE.counted(total / 1e6, {"files": names})


def parameters(count: int) -> Measurement:
    """The number of parameters as a measurement."""
    return PARAMETERS.counted(float(count), {})
