"""Labelled texts: checked row by row, cut into train, validation and test, their labels numbered."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic.dataclasses

from search.config.parse import SECTION, Name, Whole
from search.config.schema import DataConfig
from search.errors import UserError, Where, wrong
from search.tasks import cells
from search.tasks.balance import balance_notes
from search.tasks.labels import number_labels
from search.tasks.tables import Table, read_table
from search.tasks.task import Split, Splits
from search.tasks.trained_labels import TrainedLabels

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
CUT_SHARE = 0.1  # share of train that becomes a split that is missing


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class TextData(DataConfig):
    """Columns of texts, or of pairs of them."""

    text: Name = "text"
    text_pair: Name | None = None


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class LabelledData(TextData):
    """Columns of texts with labels."""

    label: Name | tuple[Name, ...] = "label"  # several: a column of 0 and 1 for each of several labels a text
    label_names: tuple[Name | Whole, ...] | None = None  # the data's labels in their order, or names of bare numbers

    @property
    def problem_type(self) -> str | None:
        return None if isinstance(self.label, str) else "multi_label_classification"

    def check(self, where: Where, problem_type: str | None) -> None:
        if self.problem_type is not None and problem_type not in (None, self.problem_type):
            rule = f"one column where model.problem_type is {problem_type}"
            raise wrong(where("data.label"), rule, list(self.label))


@dataclass(frozen=True)
class LabelledTexts:
    """One split as read from the file."""

    origin: str  # for messages
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: np.ndarray  # (N,) int64; (N, C) int8 of label sets; (N,) float64 of numbers

    def __len__(self) -> int:
        return len(self.texts)

    def inputs(self) -> list[str]:
        """The inputs that identify each row, apart from its label."""
        pairs = self.pairs or ("",) * len(self)
        return [f"{text}\0{pair}" for text, pair in zip(self.texts, pairs, strict=True)]

    def at(self, chosen: np.ndarray) -> LabelledTexts:
        """The rows with these indices."""
        pairs = None if self.pairs is None else tuple(self.pairs[i] for i in chosen)
        return LabelledTexts(self.origin, tuple(self.texts[i] for i in chosen), pairs, self.labels[chosen])


#: The labels of all rows by split, and the labels' names: of tables, data, where, trained labels and notes to add to.
Labelling = Callable[
    [Mapping[str, Table], Any, Where, TrainedLabels | None, list[str]],
    tuple[dict[str, np.ndarray], tuple[str, ...]],
]


def read_splits(
    data: TextData, where: Where, trained: TrainedLabels | None, labelled: Labelling, key: str = "label"
) -> Splits:
    """Train, validation and test of `data`; missing splits are cut from train by hash, hence deterministically.

    `labelled` reads the labels, from the columns that `key` of `data` names; `trained` are those of a trained head.

    Raises:
        UserError: see `read_table`; text that is no text, missing values, labels that are no classes, that train does
            not have or whose numbers cannot be known; too few rows.
    """
    keys = ("text", "text_pair", key)
    tables = {split: read_table(data, split, where, keys) for split in data.splits}
    notes = [note for table in tables.values() for note in table.notes]
    numbers, names = labelled(tables, data, where, trained, notes)
    parts = {split: _rows(table, numbers[split], data, where, notes) for split, table in tables.items()}
    parts = _cut(parts, where, notes)
    if data.limit is not None:
        parts = {split: rows.at(lowest(hash_fractions(rows.inputs()), data.limit)) for split, rows in parts.items()}
    _note_overlap(parts, notes)
    notes += balance_notes({split: rows.labels for split, rows in parts.items()}, names)
    for note in notes:
        log.info(note)
    splits = {split: Split(rows.texts, rows.pairs, rows.labels) for split, rows in parts.items()}
    return Splits(splits["train"], splits["validation"], splits["test"], names, tuple(notes))


def one_label(
    tables: Mapping[str, Table], data: LabelledData, where: Where, trained: TrainedLabels | None, notes: list[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """(the label number of each row (N,) int64 by split, the name of each number), by `search.tasks.labels`."""
    assert isinstance(data.label, str)
    parts = {split: cells.labels(table, data.label, where("data.label")) for split, table in tables.items()}
    parts = cells.all_numbers(parts, data.label, where("data.label"), notes)
    wanted = None if data.label_names is None else tuple(map(str, data.label_names))
    numbering = number_labels(parts, wanted, tables["train"].classes, trained, where)
    notes += numbering.notes
    numbers = {
        split: np.array([numbering.numbers[label] for label in part.labels], dtype=np.int64)
        for split, part in parts.items()
    }
    return numbers, numbering.names


def _rows(table: Table, labels: np.ndarray, data: TextData, where: Where, notes: list[str]) -> LabelledTexts:
    texts = cells.texts(table, data.text, where("data.text"), notes)
    pairs = None if data.text_pair is None else cells.texts(table, data.text_pair, where("data.text_pair"), notes)
    for column, values in ((data.text, texts), (data.text_pair, pairs or ())):
        blank = sum(not value.strip() for value in values)
        if blank:
            notes.append(f'{blank} rows of {Path(table.origin).name} have no text in column "{column}"')
    return LabelledTexts(table.origin, texts, pairs, labels)


def _cut(parts: dict[str, LabelledTexts], where: Where, notes: list[str]) -> dict[str, LabelledTexts]:
    """`parts` with the missing splits cut from train by hash of the input, so equal texts stay together."""
    train = parts["train"]
    chosen = cuts(hash_fractions(train.inputs()), tuple(parts), "text", train.origin, where, notes)
    return {split: train.at(chosen[split]) if split in chosen else parts[split] for split in SPLITS}


def cuts(
    fractions: np.ndarray, own_splits: Sequence[str], by: str, origin: str, where: Where, notes: list[str]
) -> dict[str, np.ndarray]:
    """Which rows of train, by their `fractions` (N,), become each split that is not given, and which stay train.

    Raises:
        UserError: there are too few rows.
    """
    missing = [split for split in SPLITS if split not in own_splits]
    chosen = {}
    for i, split in enumerate(missing):
        chosen[split] = np.flatnonzero((fractions >= CUT_SHARE * i) & (fractions < CUT_SHARE * (i + 1)))
        if not len(chosen[split]):
            rows = f"{len(fractions)} rows of {origin} are too few to cut one from"
            raise UserError(f"{where(f'data.{split}')}: missing, and {rows}")
        notes.append(f"no {split} split: {len(chosen[split])} rows were cut from train by hash of the {by}")
    return chosen | {"train": np.flatnonzero(fractions >= CUT_SHARE * len(missing))}


def hash_fractions(inputs: Iterable[str]) -> np.ndarray:
    """A number in [0, 1) for each input (N,), evenly spread and determined by the input alone."""
    hashes = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in inputs)
    return np.array([int.from_bytes(h[:6], "big") / 2**48 for h in hashes])


def lowest(fractions: np.ndarray, limit: int) -> np.ndarray:
    """`limit` rows chosen by hash (a file may be sorted by label), in the order of the file."""
    return np.sort(np.argsort(fractions, kind="stable")[:limit])


def _note_overlap(parts: dict[str, LabelledTexts], notes: list[str]) -> None:
    train = set(parts["train"].inputs())
    for split in ("validation", "test"):
        shared = sum(text in train for text in parts[split].inputs())
        if shared:
            notes.append(f"{shared} of {len(parts[split])} {split} rows are in train too: its figures will be too good")
