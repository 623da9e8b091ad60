"""Several labels a text: a list of labels in one column, or a column of 0 and 1 for each label.

Labels are numbered by the rules of `search.tasks.labels`, as if each label of a row stood in a row of its own. Where
they have columns, the names of these are the labels, in the order in which data.label lists them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import UserError, Where, show, wrong
from search.tasks import cells
from search.tasks.files import NumberText
from search.tasks.labels import SplitLabels, number_labels
from search.tasks.tables import Table
from search.tasks.trained_labels import Label, TrainedLabels, fold

if TYPE_CHECKING:
    from search.tasks.rows import LabelledData


MULTI_LABEL_REASON = "since model.problem_type is multi_label_classification"


def label_sets(
    tables: Mapping[str, Table], data: LabelledData, where: Where, trained: TrainedLabels | None, notes: list[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """({split: (N, C) int8, 1 where a row has a label}, the name of each label).

    Raises:
        UserError: a cell is no list of labels, or not 0 or 1; labels that train does not have or whose numbers cannot
            be
            known.
    """
    at, wanted = where("data.label"), None if data.label_names is None else tuple(map(str, data.label_names))
    if isinstance(data.label, str):
        column = data.label
        parts = {split: _of_lists(table, column, at) for split, table in tables.items()}
        if not parts["train"].labels:
            raise UserError(f'{at}: no row of {parts["train"].origin} has a label in column "{column}"')
        parts = cells.all_numbers(parts, column, at, notes)
    else:
        parts = {split: _of_columns(table, data.label, at) for split, table in tables.items()}
        _check_columns(parts["train"], data.label, at)
        if wanted is None and (trained is None or trained.bare):
            wanted = data.label
    numbering = number_labels(parts, wanted, tables["train"].classes, trained, where)
    notes += numbering.notes
    sets = {}
    for split, part in parts.items():
        assert part.rows is not None
        sets[split] = np.zeros((_length(tables[split]), len(numbering.names)), dtype=np.int8)
        sets[split][list(part.rows), [numbering.numbers[label] for label in part.labels]] = 1
    return sets, numbering.names


def _length(table: Table) -> int:
    return len(next(iter(table.columns.values())))


def _of_lists(table: Table, column: str, where: str) -> SplitLabels:
    labels: list[Label] = []
    rows: list[int] = []
    for row, value in enumerate(table.columns[column]):
        listed = listed_in(value)
        if listed is None:
            rule = f'must hold lists of labels, as ["a", "b"] (no label: []), {MULTI_LABEL_REASON}'
            raise cells.wrong_cell(f'{where}: column "{column}" of {table.origin}', rule, value, row)
        own: list[Label] = []
        for item in listed:
            label = cells.label_of(item, table.classes)
            if label is None:
                raise cells.no_class(where, column, table.origin, item, row)
            if label in own:
                rule = "must list a label once (0 and 1 for each label stand in a column each: data.label: [a, b])"
                raise cells.wrong_cell(
                    f'{where}: column "{column}" of {table.origin}', rule, list(map(str, listed)), row
                )
            own.append(label)
        labels += own
        rows += [row] * len(own)
    return SplitLabels(table.origin, tuple(labels), tuple(rows))


def listed_in(value: Any) -> list[Any] | None:
    """The list in a cell, or in its JSON text (in files whose cells are text); None for other cells."""
    if isinstance(value, list):
        return value
    if isinstance(value, str) and not isinstance(value, NumberText) and value.lstrip().startswith("["):
        try:
            parsed = json.loads(value, parse_int=NumberText, parse_float=NumberText)
        except (ValueError, RecursionError):
            return None
        return parsed if isinstance(parsed, list) else None
    return None


def _of_columns(table: Table, columns: tuple[str, ...], where: str) -> SplitLabels:
    labels: list[Label] = []
    rows: list[int] = []
    for name in columns:
        for row, value in enumerate(table.columns[name]):
            has = _truth(value)
            if has is None:
                rule = "must hold 0 or 1 (false or true)"
                raise cells.wrong_cell(f'{where}: column "{name}" of {table.origin}', rule, value, row)
            if has:
                labels.append(name)
                rows.append(row)
    return SplitLabels(table.origin, tuple(labels), tuple(rows))


def _truth(value: Any) -> bool | None:
    """True for 1 or true, False for 0 or false, None for other cells."""
    if value is None:
        return None
    word = fold(str(value))
    number = {"false": 0, "true": 1}.get(word, cells.whole(word))
    return {0: False, 1: True}.get(number) if number is not None else None


def _check_columns(train: SplitLabels, columns: tuple[str, ...], where: str) -> None:
    """Raise UserError for columns that are listed twice or have no 1 in train."""
    if len(set(columns)) < len(columns):
        raise wrong(where, "different columns", list(columns))
    empty = [name for name in columns if name not in set(train.labels)]
    if empty:
        raise UserError(f"{where}: no row of {train.origin} has a 1 in the column {show(empty[0])}; leave it out")
