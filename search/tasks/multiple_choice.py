"""Multiple-choice questions for language models: a context, its choices, and the number or text of the right one.

A file of them is read, checked row by row, and halved into validation and test where test has no file of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import UserError, Where, unknown
from search.tasks import cells
from search.tasks.files import TextFormat, read_file
from search.tasks.label_sets import listed_in
from search.tasks.rows import hash_fractions, lowest
from search.tasks.tables import Table

if TYPE_CHECKING:
    from search.tasks.documents import DocumentData

log = logging.getLogger(__name__)

CHOICE_COLUMNS = ("context", "choices", "answer")


@dataclass(frozen=True)
class ChoiceQuestions:
    """Questions of one split, in the order of the file."""

    contexts: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]  # two or more a question
    answers: tuple[int, ...]  # which of them is right
    origin: str  # the file, for messages
    most_tokens: int  # of all rows that are made of them

    def __len__(self) -> int:
        return len(self.contexts)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the content and of the limit of tokens."""
        content = json.dumps([self.contexts, self.choices, self.answers, self.most_tokens])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def rows(self, chosen: Sequence[int] | np.ndarray) -> ChoiceQuestions:
        """The questions with these indices, in this order."""
        return replace(
            self,
            contexts=tuple(self.contexts[i] for i in chosen),
            choices=tuple(self.choices[i] for i in chosen),
            answers=tuple(self.answers[i] for i in chosen),
        )


def read_choices(data: DocumentData, where: Where) -> tuple[ChoiceQuestions, ChoiceQuestions, tuple[str, ...]]:
    """(validation, test, notes); without a file for test, it is half of the questions by hash of the context.

    Raises:
        UserError: a file without questions, a missing column, an empty context, less than two choices or equal ones, an
            answer that is none of them.
    """
    assert data.choices is not None
    notes: list[str] = []
    asked = _read(data, "choices", data.choices, where, notes)
    if data.choices_test is not None:
        validation, test = asked, _read(data, "choices_test", data.choices_test, where, notes)
    else:
        second = hash_fractions(asked.contexts) >= 0.5
        validation, test = asked.rows(np.flatnonzero(~second)), asked.rows(np.flatnonzero(second))
        if not (len(validation) and len(test)):
            rule = f"{len(asked)} questions of {asked.origin} are too few to halve"
            raise UserError(
                f"{where('data.choices')}: {rule} into validation and test; give more, or data.choices_test"
            )
    if data.limit is not None:
        validation, test = (part.rows(lowest(hash_fractions(part.contexts), data.limit)) for part in (validation, test))
    notes.append(
        f"multiple choice: {len(validation)} questions of validation and {len(test)} of test, at most "
        f"{data.choices_tokens:,} tokens each (data.choices_tokens); likelihoods of choices over their characters"
    )
    for note in notes:
        log.info(note)
    return validation, test, tuple(notes)


def _read(data: DocumentData, key: str, path: str, where: Where, notes: list[str]) -> ChoiceQuestions:
    at = where(f"data.{key}")
    options = TextFormat(data.encoding, "\t" if data.delimiter == "tab" else data.delimiter)
    content = read_file(Path(path), CHOICE_COLUMNS, options, at)
    if not content.rows:
        raise UserError(f"{at}: no rows in {path}")
    for column in CHOICE_COLUMNS:
        if column not in content.columns:
            raise unknown(
                f"{at}: needs the columns {', '.join(CHOICE_COLUMNS)}; in {path}", "column", column, content.names
            )
    notes += [f"{Path(path).name}: {note}" for note in content.notes]
    table = Table(path, content.columns, None)
    contexts = cells.filled(table, "context", at, notes)
    choices = tuple(_choices(value, table, at, row) for row, value in enumerate(table.columns["choices"]))
    answers = tuple(_answer(value, choices[row], table, at, row) for row, value in enumerate(table.columns["answer"]))
    return ChoiceQuestions(contexts, choices, answers, path, data.choices_tokens)


def _choices(value: Any, table: Table, where: str, row: int) -> tuple[str, ...]:
    at = f'{where}: column "choices" of {table.origin}'
    texts = listed_in(value)
    if texts is None or len(texts) < 2:
        raise cells.wrong_cell(at, 'must hold lists of two choices or more, as ["a", "b"]', value, row)
    choices = tuple(str(one) for one in texts)
    if any(not isinstance(one, str) or not one.strip() for one in texts):
        raise cells.wrong_cell(at, "must hold texts, none of them empty", value, row)
    if len(set(choices)) < len(choices):
        raise cells.wrong_cell(at, "must list different choices", value, row)
    return choices


def _answer(value: Any, choices: tuple[str, ...], table: Table, where: str, row: int) -> int:
    """The index of the right choice, which the cell gives by its text or else by its number from 0."""
    if isinstance(value, str) and str(value) in choices:
        return choices.index(str(value))
    number = None if value is None or isinstance(value, bool) else cells.whole(str(value))
    if number is None or not 0 <= number < len(choices):
        rule = f"must hold the text of a choice or its number from 0 to {len(choices) - 1}"
        raise cells.wrong_cell(f'{where}: column "answer" of {table.origin}', rule, value, row)
    return number
