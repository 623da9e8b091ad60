"""Calibration rows of a model: token ids without labels, in the folder of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spaces.errors import Infeasible

CALIBRATION_FILE = "calibration.npz"
CALIBRATION_ROWS = 128  # ranges of activations settle within tens of rows
ROWS_THAT_GENERATE = 512  # of a causal language model: 4,096 tokens; twice as many made int4 no better


def write(folder: Path, batch: Mapping[str, np.ndarray]) -> None:
    """`batch` by input name, (N, L) each and padded at the right, as `calibration.npz`."""
    np.savez(folder / CALIBRATION_FILE, **{name: rows.astype(np.int32) for name, rows in batch.items()})  # type: ignore[arg-type]


def read(folder: Path, user: str = "int8-static") -> list[dict[str, np.ndarray]]:
    """The calibration rows, (1, length) int64 by input name each; without padding, which would widen ranges.

    `user` is the precision that needs them, for the message.

    Raises:
        Infeasible: the folder has no `calibration.npz`.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        raise Infeasible(f"{user} needs {path} to calibrate with, and it is not there")
    with np.load(path, allow_pickle=False) as data:
        columns = {name: data[name].astype(np.int64) for name in data.files}
    lengths = columns["attention_mask"].sum(1)
    return [{name: rows[i : i + 1, :length] for name, rows in columns.items()} for i, length in enumerate(lengths)]
