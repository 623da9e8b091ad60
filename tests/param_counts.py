"""The number of parameters that shapes stand for, to compare with models that are built."""

from __future__ import annotations

import numpy as np

from objectives.shapes import Shapes


def params_of(shapes: Shapes) -> np.ndarray:
    """(N,): parameters of each model, those of a tied table once."""
    return shapes.weights + shapes.tables + shapes.vectors - shapes.tied
