"""A number a text, read from one column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from search.errors import UserError, Where, show, wrong
from search.tasks import cells
from search.tasks.tables import Table
from search.tasks.trained_labels import TrainedLabels

if TYPE_CHECKING:
    from search.tasks.rows import LabelledData

#: The name that transformers gives the one output of a model for regression.
OUTPUT_NAME = "LABEL_0"


def read_numbers(
    tables: Mapping[str, Table], data: LabelledData, where: Where, trained: TrainedLabels | None, notes: list[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """({split: (N,) float64}, the name of the output).

    Raises:
        UserError: a cell is no finite number, or all rows of train have the same.
    """
    if data.label_names is not None:
        rule = "left out where model.problem_type is regression"
        raise wrong(where("data.label_names"), rule, list(data.label_names))
    assert isinstance(data.label, str)
    at = where("data.label")
    rule = "must hold finite numbers, since model.problem_type is regression"
    targets = {split: cells.finite(table, data.label, at, rule) for split, table in tables.items()}
    train = targets["train"]
    if (train == train[0]).all():
        raise UserError(
            f"{at}: must hold different numbers, got {show(float(train[0]))} in all {len(train)} rows of "
            f"{tables['train'].origin}"
        )
    return targets, trained.labels if trained is not None else (OUTPUT_NAME,)
