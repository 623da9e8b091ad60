"""A tag for each word of a text: a task that is not part of the program, written as CONTRIBUTING says.

This file is what would be `search/tasks/tagging.py`, and `tagging_head` what would stand in files of all tasks.
Texts and tags are parted by spaces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic.dataclasses

from search.config.parse import SECTION, Name
from search.errors import Where, wrong
from search.tasks import cells
from search.tasks.encoded import read_encoded, write_encoded
from search.tasks.one_head import BaseTask
from search.tasks.rows import TextData, read_splits
from search.tasks.task import ConstantGuess, Split, Splits
from search.tasks.tokens import MODEL_COLUMNS, Encoded, with_padding

if TYPE_CHECKING:
    from search.tasks.tables import Table
    from search.tasks.trained_labels import TrainedLabels

MISSING = -100  # a token that no tag belongs to; torch's cross entropy leaves such targets out


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class TagData(TextData):
    """Columns of texts and of their tags."""

    tags: Name = "tags"


@dataclass(frozen=True)
class TagRows:
    """`Rows` of texts; outputs are logits (tokens, C)."""

    encoded: Encoded
    targets: np.ndarray  # (N, T) int64: a tag at the first token of each word, else MISSING
    labels: tuple[str, ...]

    @property
    def classes(self) -> int:
        return len(self.labels)

    @cached_property
    def references(self) -> np.ndarray:
        return np.zeros(len(self), dtype=np.int64)

    @property
    def calls(self) -> np.ndarray:
        return self.encoded.one_each

    def __len__(self) -> int:
        return len(self.encoded)

    def write(self, folder: Path, name: str) -> None:
        write_encoded(folder / f"{name}.npz", self.encoded, self.targets)

    def chosen(self, rows: np.ndarray) -> TagRows:
        return replace(self, encoded=self.encoded.chosen(rows), targets=self.targets[rows])

    def tags(self, output: np.ndarray) -> list[np.ndarray]:
        """The tag of each word, by row."""
        parts = np.split(output.argmax(-1), np.cumsum(self.encoded.lengths)[:-1])
        return [part[self.targets[i, : len(part)] != MISSING] for i, part in enumerate(parts)]

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        return self._scores(self.tags(output))

    def _scores(self, tags: Sequence[np.ndarray | int]) -> np.ndarray:
        gold = (row[row != MISSING] for row in self.targets)
        return np.array([np.mean(one == wanted) for one, wanted in zip(tags, gold, strict=True)])

    def constant_guess(self, metric: str) -> ConstantGuess:
        most = int(np.bincount(self.targets[self.targets != MISSING]).argmax())
        return ConstantGuess(self._scores([most] * len(self)), f"where every word is called {self.labels[most]}")

    def problem(self) -> str:
        several = len(np.unique(self.targets[self.targets != MISSING])) > 1
        return "" if several else "must have words of two tags or more"

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        return {}

    def replies(self, output: np.ndarray) -> list[list[str]]:
        return [[self.labels[tag] for tag in row] for row in self.tags(output)]


class Tagging(BaseTask):
    """Tags of words. Models give "tag_logits" (B, L, C)."""

    name = "tagging"
    keys = TagData
    metrics: tuple[str, ...] = ("tag_accuracy",)
    own_head = "tags"
    labelled = True

    def load(self, data: TagData, where: Where = str, trained: TrainedLabels | None = None) -> Splits:
        return read_splits(data, where, trained, tag_numbers, "tags")

    def asked(self, rows: Any) -> Split:
        if not all(isinstance(row, str) and row.split() for row in rows):
            raise TypeError(f"rows must be texts with a word or more, got {rows!r:.80}")
        return Split(tuple(rows), None, np.zeros((len(rows), max(len(row.split()) for row in rows)), dtype=np.int64))

    def encode(
        self, tokenizer: Any, part: Split, data: TagData, labels: tuple[str, ...], where: Where = str
    ) -> TagRows:
        limit = min(data.max_length, tokenizer.model_max_length)
        words = [text.split() for text in part.texts]
        tokens = tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit)
        targets = np.full((len(words), limit), MISSING, dtype=np.int64)
        for i, tags in enumerate(part.labels):
            of = tokens.word_ids(i)
            for at, word in enumerate(of):
                if word is not None and (at == 0 or of[at - 1] != word):
                    targets[i, at] = tags[word]
        columns = {
            name: [np.array(row, dtype=np.int64) for row in tokens[name]] for name in MODEL_COLUMNS if name in tokens
        }
        return TagRows(with_padding(tokenizer, columns), targets, labels)

    def read(self, folder: Path, name: str) -> TagRows:
        labels = json.loads((folder / "data.json").read_text())["labels"]
        return TagRows(*read_encoded(folder / f"{name}.npz"), tuple(labels))


def tag_numbers(
    tables: Mapping[str, Table], data: TagData, where: Where, trained: TrainedLabels | None, notes: list[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """(the tag of each word (N, most words) by split, the tags); those of the model's head where it has one."""
    rows = {}
    for split, table in tables.items():
        texts = cells.filled(table, data.text, where("data.text"), [])
        rows[split] = [row.split() for row in cells.filled(table, data.tags, where("data.tags"), [])]
        for i, (text, tags) in enumerate(zip(texts, rows[split], strict=True)):
            if len(text.split()) != len(tags):
                at = f'{where("data.tags")}: column "{data.tags}" of {table.origin}'
                raise cells.wrong_cell(at, f"must have {len(text.split())} tags, one a word", " ".join(tags), i)
    names = trained.labels if trained else tuple(sorted({tag for tags in rows["train"] for tag in tags}))
    strange = {tag for part in rows.values() for tags in part for tag in tags} - set(names)
    if strange:
        raise wrong(where("data.tags"), f"tags of {names}", min(strange))
    longest = max(len(tags) for part in rows.values() for tags in part)
    numbers = {split: np.full((len(part), longest), MISSING) for split, part in rows.items()}
    for split, part in rows.items():
        for i, tags in enumerate(part):
            numbers[split][i, : len(tags)] = [names.index(tag) for tag in tags]
    return numbers, names
