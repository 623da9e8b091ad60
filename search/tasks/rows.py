"""Labelled texts: checked row by row, cut into train, validation and test, their labels numbered."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import UserError, Where, listed, show, wrong
from search.tasks.table import Table, read_table
from search.tasks.task import Split, Splits

if TYPE_CHECKING:
    from search.sections import DataConfig

log = logging.getLogger(__name__)

CUT = 0.1  # share of train that becomes a split that is missing
Label = int | str


@dataclass(frozen=True)
class Rows:
    """One split before its labels are numbered."""

    origin: str  # for messages
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[Label, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def inputs(self) -> list[str]:
        """What identifies a row, apart from its label."""
        pairs = self.pairs or ("",) * len(self)
        return [f"{text}\0{pair}" for text, pair in zip(self.texts, pairs, strict=True)]

    def at(self, chosen: np.ndarray) -> Rows:
        """The rows with these indices."""
        pairs = None if self.pairs is None else tuple(self.pairs[i] for i in chosen)
        texts, labels = tuple(self.texts[i] for i in chosen), tuple(self.labels[i] for i in chosen)
        return Rows(self.origin, texts, pairs, labels)


def read_splits(data: DataConfig, where: Where) -> Splits:
    """Train, validation and test of `data`; what is missing is cut from train, the same rows every time.

    Raises:
        UserError: see `read_table`; text that is no text, missing values, labels that are no classes,
            fewer than two classes, labels that train does not have, too few rows.
    """
    notes: list[str] = []
    parts = {split: _rows(read_table(data, split, where), data, where) for split in data.splits}
    names = _classes(parts["train"], where)
    parts = _cut(parts, where, notes)
    for split, rows in parts.items():
        strange = sorted({label for label in rows.labels if label not in names}, key=str)
        if strange:
            raise UserError(
                f"{where('data.label')}: {split} has labels that train has not: "
                f"{listed(map(show, strange), 5)} (train has {listed(map(show, names), 10)})"
            )
    if data.limit is not None:
        parts = {split: rows.at(_lowest(rows, data.limit)) for split, rows in parts.items()}
    _note_overlap(parts, notes)
    for note in notes:
        log.info(note)
    number = {name: i for i, name in enumerate(names)}
    made = {
        split: Split(rows.texts, rows.pairs, np.array([number[label] for label in rows.labels], dtype=np.int64))
        for split, rows in parts.items()
    }
    shown = data.label_names or tuple(map(str, names))
    if len(set(shown)) != len(names):
        raise wrong(where("data.label_names"), f"{len(names)} different names, for {listed(names)}", list(shown))
    return Splits(made["train"], made["validation"], made["test"], shown, tuple(notes))


def _rows(table: Table, data: DataConfig, where: Where) -> Rows:
    texts = _texts(table, data.text, where("data.text"))
    pairs = None if data.text_pair is None else _texts(table, data.text_pair, where("data.text_pair"))
    return Rows(table.origin, texts, pairs, _labels(table, data.label, where("data.label")))


def _texts(table: Table, column: str, where: str) -> tuple[str, ...]:
    values = table.columns[column]
    for i, value in enumerate(values):
        if not isinstance(value, str):
            what = "a missing value" if value is None else show(value)
            raise UserError(f'{where}: column "{column}" of {table.origin} must hold text, got {what} in row {i + 1}')
    return tuple(values)


def _labels(table: Table, column: str, where: str) -> tuple[Label, ...]:
    """Whole numbers or names; numbers that the data name (ClassLabel) become names."""
    return tuple(_label(value, i, table, column, where) for i, value in enumerate(table.columns[column]))


def _label(value: Any, row: int, table: Table, column: str, where: str) -> Label:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and table.classes is not None and 0 <= value < len(table.classes):
        return table.classes[value]
    if isinstance(value, int | str) and value != "":
        return value
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    what = "a missing value" if missing else show(value)
    raise UserError(
        f'{where}: column "{column}" of {table.origin} must hold classes (whole numbers or names), '
        f"got {what} in row {row + 1}"
    )


def _classes(train: Rows, where: Where) -> list[Label]:
    """The distinct labels, in order."""
    names = set(train.labels)
    at = where("data.label")
    if len({type(name) for name in names}) > 1:
        number = next(n for n in names if isinstance(n, int))
        word = next(n for n in names if isinstance(n, str))
        raise UserError(
            f"{at}: labels in {train.origin} must be all numbers or all names, got {number} and {show(word)}"
        )
    if len(names) < 2:
        raise UserError(
            f"{at}: must have at least two classes, got only {show(train.labels[0])} "
            f"in all {len(train)} rows of {train.origin}"
        )
    if len(names) > max(10, len(train) / 2):
        raise UserError(
            f"{at}: must hold classes, got {len(names)} different values in {len(train)} rows of {train.origin}"
        )
    return sorted(names)  # all numbers or all names


def _cut(parts: dict[str, Rows], where: Where, notes: list[str]) -> dict[str, Rows]:
    """`parts` with the missing splits cut from train by hash of the input, so equal texts stay together."""
    missing = [split for split in ("validation", "test") if split not in parts]
    train, places = parts["train"], _places(parts["train"])
    made = dict(parts)
    for i, split in enumerate(missing):
        chosen = (places >= CUT * i) & (places < CUT * (i + 1))
        made[split] = train.at(np.flatnonzero(chosen))
        if not len(made[split]):
            raise UserError(
                f"{where(f'data.{split}')}: missing, and {len(train)} rows of {train.origin} "
                "are too few to cut one from"
            )
        notes.append(f"no {split} split: {len(made[split])} rows were cut from train by hash of the text")
    if missing:
        made["train"] = train.at(np.flatnonzero(places >= CUT * len(missing)))
    return {split: made[split] for split in ("train", "validation", "test")}


def _places(rows: Rows) -> np.ndarray:
    """A number in [0, 1) for each row (N,), evenly spread and determined by its input alone."""
    hashes = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in rows.inputs())
    return np.array([int.from_bytes(h[:6], "big") / 2**48 for h in hashes])


def _lowest(rows: Rows, limit: int) -> np.ndarray:
    """`limit` rows chosen by hash (a file may be sorted by label), in the order of the file."""
    return np.sort(np.argsort(_places(rows), kind="stable")[:limit])


def _note_overlap(parts: dict[str, Rows], notes: list[str]) -> None:
    train = set(parts["train"].inputs())
    for split in ("validation", "test"):
        shared = sum(text in train for text in parts[split].inputs())
        if shared:
            notes.append(f"{shared} of {len(parts[split])} {split} rows are in train too: its figures will be too good")
