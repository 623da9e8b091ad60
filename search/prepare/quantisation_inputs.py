"""Inputs of quantisation, stored beside every set of weights: calibration rows, and the sensitivity of the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search.tasks import Task
from search.tasks.encoded import read_encoded
from search.tasks.tokens import batches, by_length
from spaces import calibration
from spaces.errors import Infeasible

if TYPE_CHECKING:
    from spaces.base import TaskModel

SENSITIVITY_ROWS = 32  # more rows do not change the order of the blocks
SENSITIVITY_ROWS_THAT_GENERATE = 256  # of a causal language model: 2,048 tokens, as the effects of leaving blocks out
CALIBRATION_BATCH = 16


def calibrate(folder: Path, model: TaskModel, names: Sequence[str], data: Path, task: Task) -> None:
    """Write `calibration.npz` (training rows without labels) and `sensitivity.json` (of `model`, on the first rows).

    Every set of weights has the same rows. A model of unknown anatomy has no `sensitivity.json`. The rounding whose
    effect is measured is that of the integer weights that the task's models have.

    Leaves `model` in eval mode with its weights frozen.
    """
    import torch

    from spaces import sensitivity

    encoded, _ = read_encoded(data / "train.npz")
    longest = int(encoded.lengths.max())
    count = calibration.ROWS_THAT_GENERATE if task.generates else calibration.CALIBRATION_ROWS
    rows = np.random.default_rng(0).permutation(len(encoded))[: task.most_rows(count, longest)]
    batch = encoded.batch(rows)
    calibration.write(folder, {name: batch[name] for name in names})
    few = rows[: task.most_rows(SENSITIVITY_ROWS_THAT_GENERATE if task.generates else SENSITIVITY_ROWS, longest)]
    size = task.most_rows(CALIBRATION_BATCH, longest)
    ordered = few[by_length(encoded.lengths[few], size)]
    fed = ({n: torch.from_numpy(b[n]) for n in names} for b in batches(encoded, size, ordered))
    rounding = sensitivity.by_group if task.generates else sensitivity.by_output
    try:
        scores = sensitivity.measure_sensitivity(model, fed, task.certainty, rounding)
        sensitivity.write(folder, scores)
    except Infeasible:
        return
