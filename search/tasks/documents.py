"""Plain texts for language models: documents, checked one by one and cut into train, validation and test."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pydantic.dataclasses

from search.config.parse import SECTION, Count, Name
from search.config.schema import DataConfig
from search.errors import UserError, Where, show, wrong
from search.tasks import cells
from search.tasks.rows import SPLITS, cuts, hash_fractions, lowest
from search.tasks.tables import read_table

log = logging.getLogger(__name__)


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class DocumentData(DataConfig):
    """A column of texts, and multiple-choice questions beside them."""

    text: Name = "text"
    scored_tokens: Count = 16384  # most tokens of validation and of test, windows spread evenly
    choices: Name | None = None  # a file of multiple-choice questions (context, choices, answer)
    choices_test: Name | None = None  # None: half of those of `choices`, by hash
    choices_tokens: Count = 65536  # most tokens of the questions of validation and of test

    files: ClassVar[tuple[str, ...]] = ("choices", "choices_test")
    chooses_rows: ClassVar[tuple[str, ...]] = ("scored_tokens",)

    def check(self, where: Where, problem_type: str | None) -> None:
        if self.choices is None and self.choices_test is not None:
            raise wrong(where("data.choices_test"), "left out unless data.choices is given", self.choices_test)
        if self.choices is not None and self.choices_test == self.choices:
            rule = "another file than data.choices (or left out: half of it)"
            raise wrong(where("data.choices_test"), rule, self.choices_test)


@dataclass(frozen=True)
class Documents:
    """Texts of one split, in the order of the file."""

    texts: tuple[str, ...]
    origin: str  # the file or hub split, for messages
    scored_tokens: int | None = None  # most tokens that are scored, spread over the texts; None: all
    whole: bool = True  # False: some texts of a split

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the content: equal for equal texts in equal order."""
        total = hashlib.sha256()
        for text in self.texts:
            total.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return total.hexdigest()[:16]

    def rows(self, chosen: np.ndarray) -> Documents:
        return Documents(tuple(self.texts[i] for i in chosen), self.origin, self.scored_tokens, whole=False)

    def shown(self, row: int) -> str:
        return f"the text {show(self.texts[row])}"


def read_documents(data: DocumentData, where: Where) -> tuple[tuple[Documents, Documents, Documents], tuple[str, ...]]:
    """((train, validation, test), notes on what was changed or dropped).

    Splits that are missing are cut from train by hash of the text.

    Raises:
        UserError: see `read_table`; a text that is missing or blank, too few of them.
    """
    tables = {split: read_table(data, split, where, ("text",)) for split in data.splits}
    notes = [note for table in tables.values() for note in table.notes]
    texts = {name: cells.filled(table, data.text, where("data.text"), notes) for name, table in tables.items()}
    train, origin = texts["train"], tables["train"].origin
    chosen = cuts(hash_fractions(train), tuple(texts), "text", origin, where, notes)
    parts = {split: tuple(train[i] for i in chosen[split]) if split in chosen else texts[split] for split in SPLITS}
    if not parts["train"]:
        raise UserError(f"{where('data.train')}: all {len(train)} rows of {origin} were cut from it; give more texts")
    if data.limit is not None:
        parts = {
            split: tuple(part[i] for i in lowest(hash_fractions(part), data.limit)) for split, part in parts.items()
        }
    for split in ("validation", "test"):
        shared = len(set(parts[split]) & set(parts["train"]))
        if shared:
            notes.append(
                f"{shared} of {len(parts[split])} {split} texts are in train too: its figures will be too good"
            )
    notes.append(f"at most {data.scored_tokens:,} tokens of validation and of test are scored (data.scored_tokens)")
    for note in notes:
        log.info(note)
    splits = {
        split: Documents(
            parts[split],
            tables[split].origin if split in tables else f"the {split} texts cut from {origin}",
            None if split == "train" else data.scored_tokens,
        )
        for split in SPLITS
    }
    return (splits["train"], splits["validation"], splits["test"]), tuple(notes)
