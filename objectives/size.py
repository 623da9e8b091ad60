"""How big a model is: bytes on disk, and parameters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from objectives.measurement import Measurement, Objective

SIZE = Objective("size_mb", "MB", "lower", "weight files on disk, in MB of 1e6 bytes")
PARAMETERS = Objective("params", "count", "lower", "parameters of the model, each counted once")

OBJECTIVES = (SIZE, PARAMETERS)


def size(folder: Path, files: Iterable[str]) -> Measurement:
    """What the files (paths inside `folder`) that hold the model's weights, and its runtime needs, take.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    names = sorted(set(files))
    total = sum((folder / name).stat().st_size for name in names)
    return SIZE.counted(total / 1e6, {"files": names})


def parameters(count: int) -> Measurement:
    return PARAMETERS.counted(float(count), {})
