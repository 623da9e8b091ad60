"""Outputs of batches as one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spaces.base import Base

BatchOutputs = Sequence[Mapping[str, np.ndarray]]  # a batch's arrays by name


def joined_outputs(outputs: BatchOutputs, batches: Sequence[Mapping[str, np.ndarray]], base: Base) -> np.ndarray:
    """The outputs for these batches: (E, ...), or (tokens, ...) of a head with an output a token, without padding."""
    arrays: list[Any] = [one[base.output] for one in outputs]
    if base.per_token:
        masks = (batch["attention_mask"].astype(bool) for batch in batches)
        arrays = [array[mask] for array, mask in zip(arrays, masks, strict=True)]
    return np.concatenate(arrays)


def finite_output(output: np.ndarray, split: str) -> np.ndarray:
    """The output for a split. Raises ArithmeticError where a number of it is infinite or none."""
    strange = int((~np.isfinite(output)).sum())
    if strange:
        raise ArithmeticError(f"{strange} of {output.size} outputs on {split} are infinite or no numbers")
    return output
