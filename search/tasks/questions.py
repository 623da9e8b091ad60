"""Questions with their contexts and gold answers, in SQuAD's columns: checked row by row and cut into splits."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydantic.dataclasses

from search.config import parse
from search.config.parse import SECTION, Count, Name
from search.config.schema import DataConfig
from search.errors import UserError, Where, show
from search.tasks import cells
from search.tasks.files import NumberText
from search.tasks.rows import SPLITS, cuts, hash_fractions, lowest
from search.tasks.tables import Table, read_table

log = logging.getLogger(__name__)

ID_COLUMN = "id"  # the column of a row's name; without it, rows are named by their numbers
KEYS = ("question", "context", "answers")


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class QuestionData(DataConfig):
    """Columns as SQuAD's, and which spans may be the answer."""

    question: Name = "question"
    context: Name = "context"
    answers: Name = "answers"  # mappings {text: [...], answer_start: [...]}
    null_threshold: parse.Number | None = None  # logits by which "no answer" must lead; None: all have an answer
    n_best: Count = 20  # spans of each window that may be the answer
    max_answer_len: Count = 30  # tokens of an answer, at most

    scores_rows: ClassVar[tuple[str, ...]] = ("null_threshold", "n_best", "max_answer_len")


@dataclass(frozen=True)
class Questions:
    """Rows of one part of the data, in the order of the file: one entry a question in each field."""

    ids: tuple[str, ...]
    questions: tuple[str, ...]
    contexts: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]  # each stands in the context at its start; none: unanswerable
    starts: tuple[tuple[int, ...], ...]  # characters of the context before each answer

    def __len__(self) -> int:
        return len(self.questions)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the content: equal for equal rows in equal order."""
        total = hashlib.sha256()
        for row in zip(self.ids, self.questions, self.contexts, self.answers, self.starts, strict=True):
            total.update(json.dumps(row).encode() + b"\n")
        return total.hexdigest()[:16]

    def shown(self, row: int) -> str:
        return f"the question {show(self.questions[row])}"

    def rows(self, chosen: np.ndarray) -> Questions:
        """The rows with these indices, in this order."""
        return Questions(
            tuple(self.ids[i] for i in chosen),
            tuple(self.questions[i] for i in chosen),
            tuple(self.contexts[i] for i in chosen),
            tuple(self.answers[i] for i in chosen),
            tuple(self.starts[i] for i in chosen),
        )


def read_questions(data: QuestionData, where: Where) -> tuple[Questions, Questions, Questions, tuple[str, ...]]:
    """(train, validation, test, what was done to the data) of `data`.

    Splits that are missing are cut from train by hash of the context, so that no context is in two of them.

    Raises:
        UserError: see `read_table`; a question, a context or answers that are missing or malformed, a repeated id,
            too few rows.
    """
    tables = {split: read_table(data, split, where, KEYS, optional=(ID_COLUMN,)) for split in data.splits}
    notes = [note for table in tables.values() for note in table.notes]
    parts = {split: _questions(table, split, data, where, notes) for split, table in tables.items()}
    train, origin = parts["train"], tables["train"].origin
    chosen = cuts(hash_fractions(train.contexts), tuple(parts), "context", origin, where, notes)
    parts = {split: train.rows(chosen[split]) if split in chosen else parts[split] for split in SPLITS}
    if not len(parts["train"]):
        raise UserError(
            f"{where('data.train')}: all {len(train)} rows of {origin} were cut from it; give more contexts"
        )
    if data.limit is not None:
        parts = {split: part.rows(lowest(_row_fractions(part), data.limit)) for split, part in parts.items()}
    _note_shared(parts, notes)
    for note in notes:
        log.info(note)
    return parts["train"], parts["validation"], parts["test"], tuple(notes)


def _row_fractions(part: Questions) -> np.ndarray:
    return hash_fractions(
        f"{question}\0{context}" for question, context in zip(part.questions, part.contexts, strict=True)
    )


def _questions(table: Table, split: str, data: QuestionData, where: Where, notes: list[str]) -> Questions:
    """The checked rows of a table; how many were dropped goes to `notes`."""
    ids = _ids(table, where(f"data.{split}"))
    questions = cells.filled(table, data.question, where("data.question"), notes)
    contexts = cells.filled(table, data.context, where("data.context"), notes)
    at = f'{where("data.answers")}: column "{data.answers}" of {table.origin}'
    answers, starts, usable = [], [], []
    for row, (cell, context) in enumerate(zip(table.columns[data.answers], contexts, strict=True)):
        texts, offsets = _answers(cell, at, row)
        if all(context.startswith(text, start) for text, start in zip(texts, offsets, strict=True)):
            usable.append(row)
            answers.append(tuple(texts))
            starts.append(tuple(offsets))
    name, dropped = Path(table.origin).name, len(contexts) - len(usable)
    if dropped:
        notes.append(f"{dropped} rows of {name} dropped: their answers do not stand where answer_start says")
    if not usable:
        raise UserError(f"{at}: in no row do the answers stand where answer_start says")
    return Questions(
        tuple(ids[i] for i in usable),
        tuple(questions[i] for i in usable),
        tuple(contexts[i] for i in usable),
        tuple(answers),
        tuple(starts),
    )


def _ids(table: Table, where: str) -> tuple[str, ...]:
    if ID_COLUMN not in table.columns:
        count = len(next(iter(table.columns.values())))
        return tuple(str(row + 1) for row in range(count))
    ids = cells.texts(table, ID_COLUMN, where, [])
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if first.setdefault(name, row) != row:
            both = f"rows {first[name] + 1} and {row + 1}"
            raise UserError(
                f'{where}: column "{ID_COLUMN}" of {table.origin} must differ from row to row, '
                f"got {show(name)} in {both}"
            )
    return ids


def _answers(cell: Any, at: str, row: int) -> tuple[list[str], list[int]]:
    """(texts, starts) of the gold answers in a cell, unchecked against the context."""
    value = _parsed(cell)
    texts, starts = (value.get("text"), value.get("answer_start")) if isinstance(value, Mapping) else (None, None)
    if not isinstance(texts, list | tuple) or not isinstance(starts, list | tuple):
        raise cells.wrong_cell(at, "must hold mappings {text: [...], answer_start: [...]}", cell, row)
    if len(texts) != len(starts):
        rule = "must have as many answer_start as text"
        raise UserError(f"{at} {rule}, got {len(starts)} and {len(texts)} in row {row + 1}")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise cells.wrong_cell(at, "must hold text that is not empty (no answer is an empty list)", text, row)
    offsets = []
    for start in starts:
        offset = _whole(start)
        if offset is None or offset < 0:
            raise cells.wrong_cell(at, "must have whole numbers from 0 as answer_start", start, row)
        offsets.append(offset)
    return list(texts), offsets


def _parsed(cell: Any) -> Any:
    """The JSON value in a text cell; other cells, and text that is not JSON, unchanged."""
    if not isinstance(cell, str) or isinstance(cell, NumberText):
        return cell
    try:
        return json.loads(cell)
    except (json.JSONDecodeError, RecursionError):
        return cell


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | NumberText):
        return None
    return cells.whole(str(value))


def _note_shared(parts: Mapping[str, Questions], notes: list[str]) -> None:
    """Note the contexts that stand in two splits."""
    contexts = {split: set(part.contexts) for split, part in parts.items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = len(contexts[first] & contexts[second])
        if shared:
            total = len(contexts[second])
            notes.append(f"{shared} of {total} contexts of {second} are in {first} too: its figures will be too good")
