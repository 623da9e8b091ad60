"""The cells of a table as texts, numbers and labels, by the same rules for every file format."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from dataclasses import replace
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from search.errors import UserError, listed, show
from search.tasks.files import NumberText
from search.tasks.labels import SplitLabels
from search.tasks.tables import Table
from search.tasks.trained_labels import Label


def texts(table: Table, column: str, where: str, notes: list[str]) -> tuple[str, ...]:
    """The column as text; numbers, booleans and dates become the text of the file."""
    values, kinds = [], set()
    for i, value in enumerate(table.columns[column]):
        text = text_of(value)
        if text is None or (not text.isascii() and not _is_unicode(text)):
            raise wrong_cell(f'{where}: column "{column}" of {table.origin}', "must hold text", value, i)
        if type(value) is not str:
            kinds.add("number" if isinstance(value, NumberText) else type(value).__name__)
        values.append(text)
    if kinds:
        notes.append(f'column "{column}" of {Path(table.origin).name} holds {listed(sorted(kinds))}: read as text')
    return tuple(values)


def filled(table: Table, column: str, where: str, notes: list[str]) -> tuple[str, ...]:
    """The column as text, none of it blank."""
    values = texts(table, column, where, notes)
    for i, text in enumerate(values):
        if not text.strip():
            raise wrong_cell(f'{where}: column "{column}" of {table.origin}', "must not be empty", text, i)
    return values


def finite(table: Table, column: str, where: str, rule: str = "must hold finite numbers") -> np.ndarray:
    """The column as numbers (N,) float64; text that spells a number is one. Raises UserError for other cells."""
    numbers = []
    for row, value in enumerate(table.columns[column]):
        number = _finite(value)
        if number is None:
            raise wrong_cell(f'{where}: column "{column}" of {table.origin}', rule, value, row)
        numbers.append(number)
    return np.array(numbers, dtype=np.float64)


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str) or "_" in str(value):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def wrong_cell(at: str, rule: str, value: Any, row: int) -> UserError:
    """The error for a value that breaks the rule of column `at`; `row` counts from 0, the message from 1."""
    what = "a missing value" if is_missing(value) else str(value) if isinstance(value, NumberText) else show(value)
    return UserError(f"{at} {rule}, got {what} in row {row + 1}")


def text_of(value: Any) -> str | None:
    """The cell as the text of the file; None for a value of another type, such as a list."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if not is_missing(value) and isinstance(value, int | float | Decimal | date | time):
        return str(value)
    return None


def is_missing(value: Any) -> bool:
    """Whether a cell is empty."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogate, which tokenizers refuse."""
    return not any("\ud800" <= mark <= "\udfff" for mark in text)


def labels(table: Table, column: str, where: str) -> SplitLabels:
    """The column as whole numbers and names; the numbers of a ClassLabel feature become its names."""
    values = []
    for i, value in enumerate(table.columns[column]):
        label = label_of(value, table.classes)
        if label is None:
            raise no_class(where, column, table.origin, value, i)
        values.append(label)
    return SplitLabels(table.origin, tuple(values))


def label_of(value: Any, names: tuple[str, ...] | None) -> Label | None:
    """The cell as a label, text unchanged (see `all_numbers`); None where it cannot be a class."""
    if isinstance(value, NumberText | float | Decimal):  # 1.0 is 1; there is no class 0.5
        value = whole(str(value))
    if isinstance(value, bytes):
        value = text_of(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return names[value] if names is not None and 0 <= value < len(names) else value
    return value if isinstance(value, str) and value.strip() else None


def whole(text: str) -> int | None:
    """The whole number spelled "1", "-1" or "1.0"; None for other text, such as the name "01"."""
    match = re.fullmatch(r"\s*([-+]?(?:0|[1-9]\d*))(?:\.0*)?\s*", text, flags=re.ASCII)
    return None if match is None else int(match[1])


#: Spellings of a missing value: missing among numbers, an ordinary name among names.
MISSING = ("nan", "na", "<na>", "n/a", "null", "none")


def all_numbers(parts: Mapping[str, SplitLabels], column: str, where: str, notes: list[str]) -> dict[str, SplitLabels]:
    """`parts` with labels of one type: whole numbers where every label is a number, else text."""
    values = {label for part in parts.values() for label in part.labels}
    words = {label for label in values if isinstance(label, str) and _number(label) is None}
    if len(words) == len(values):
        return dict(parts)
    if all(word.strip().lower() in MISSING for word in words):  # mostly there are none
        return {split: _numbers(part, words, column, where) for split, part in parts.items()}
    notes.append(f"labels mix numbers and words; each is a class: {listed(map(show, sorted(map(str, values))), 10)}")
    return {split: replace(part, labels=tuple(map(str, part.labels))) for split, part in parts.items()}


def _numbers(part: SplitLabels, words: Set[str], column: str, where: str) -> SplitLabels:
    numbers = []
    for i, label in enumerate(part.labels):
        value = whole(str(label))
        if value is None:
            raise no_class(where, column, part.origin, None if label in words else NumberText(label), part.row(i))
        numbers.append(value)
    return replace(part, labels=tuple(numbers))


def _number(text: str) -> float | None:
    try:
        return float(text) if re.fullmatch(r"\s*[-+]?(?:0|[1-9]\d*)?(?:\.\d*)?\s*", text, flags=re.ASCII) else None
    except ValueError:
        return None


def no_class(where: str, column: str, origin: str, value: Any, row: int) -> UserError:
    missing = is_missing(value) or (isinstance(value, str) and not value.strip())
    what = "a missing value" if missing else str(value) if isinstance(value, NumberText) else show(value)
    rule = "must hold classes (whole numbers or names)"
    hint = ""
    if isinstance(value, list):
        hint = "; for several labels a text set model.problem_type: multi_label_classification"
    elif not missing and isinstance(value, NumberText | float | Decimal):
        hint = "; for a number a text set model.problem_type: regression"
    return UserError(f'{where}: column "{column}" of {origin} {rule}, got {what} in row {row + 1}{hint}')
