"""A number a text, read from one column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import UserError, Where, show, wrong
from search.tasks import cells
from search.tasks.files import Number
from search.tasks.heads import Head
from search.tasks.tables import Table

if TYPE_CHECKING:
    from search.config.schema import DataConfig

#: The name that transformers gives the one output of a model for regression.
NAME = "LABEL_0"


def numbers(
    tables: Mapping[str, Table], data: DataConfig, where: Where, head: Head | None, notes: list[str]
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
    targets = {}
    for split, table in tables.items():
        values = []
        for row, value in enumerate(table.columns[data.label]):
            number = _number(value)
            if number is None:
                rule = "must hold finite numbers, since model.problem_type is regression"
                raise cells.wrong(f'{at}: column "{data.label}" of {table.origin}', rule, value, row)
            values.append(number)
        targets[split] = np.array(values, dtype=np.float64)
    train = targets["train"]
    if (train == train[0]).all():
        raise UserError(
            f"{at}: must hold different numbers, got {show(float(train[0]))} in all {len(train)} rows of "
            f"{tables['train'].origin}"
        )
    return targets, head.labels if head is not None else (NAME,)


def _number(value: Any) -> float | None:
    """None: no finite number. Text is one where it is written as one."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str) or "_" in str(value):
        return None
    try:
        number = float(str(value) if isinstance(value, Number) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
