"""A corpus: passages with ids, all of which are searched, and the ids that are relevant to each query."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pydantic.dataclasses

from search.config.parse import SECTION, Name
from search.config.schema import DataConfig
from search.errors import UserError, Where, nearest, show
from search.tasks import cells
from search.tasks.files import NumberText
from search.tasks.tables import Table, read_table


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class PassageData(DataConfig):
    """Columns of queries and passages, of a corpus, or of scored pairs."""

    query: Name = "query"  # a query with one of its relevant passages, a row each
    passage: Name = "passage"
    query_id: Name | None = None  # columns of names for queries and passages; None: the numbers of their rows
    passage_id: Name | None = None
    corpus: Name | None = None  # a file of all passages; rows then have a query and the ids of its relevant ones
    corpus_id: Name = "id"  # a column of the corpus, as the next
    corpus_text: Name = "text"
    relevant: Name = "relevant"  # an id of the corpus, or a list of them; where there is a corpus
    score: Name | None = None  # how alike the two texts are; None: rows are relevant passages

    files: ClassVar[tuple[str, ...]] = ("corpus",)


@dataclass(frozen=True)
class Corpus:
    """Passages in the order of the file."""

    origin: str  # for messages
    numbers: Mapping[str, int]  # the place of each id
    texts: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.numbers)


def read_corpus(data: PassageData, where: Where, notes: list[str]) -> Corpus | None:
    """The passages of the file `data.corpus`; None where there is none.

    Raises:
        UserError: see `read_table`; a passage without an id or a text, an id that is there twice.
    """
    if data.corpus is None:
        return None

    def renamed(key: str) -> str:
        return where("data.corpus" if key == "data.train" else key)

    alone = replace(data, name=None, train=data.corpus)
    table = read_table(alone, "train", renamed, ("corpus_id", "corpus_text"))
    notes += table.notes
    ids = cells.filled(table, data.corpus_id, where("data.corpus_id"), notes)
    texts = cells.filled(table, data.corpus_text, where("data.corpus_text"), notes)
    numbers: dict[str, int] = {}
    for row, name in enumerate(ids):
        before = numbers.setdefault(name, row)
        if before != row:
            at = f'{where("data.corpus_id")}: column "{data.corpus_id}" of {table.origin}'
            raise UserError(f"{at} must have each id once, got {show(name)} in rows {before + 1} and {row + 1}")
    name = Path(table.origin).name
    notes.append(f"queries of validation and test are looked for among all {len(texts):,} passages of {name}")
    repeated = len(texts) - len(set(texts))
    if repeated:
        notes.append(f"{repeated} passages of {name} have the text of another one: only the listed ids are relevant")
    return Corpus(table.origin, numbers, texts)


def relevant_ids(table: Table, column: str, where: str, corpus: Corpus) -> list[tuple[str, ...]]:
    """The ids in each row of a column, each once: one, or a list of them (in CSV as JSON text); none where it is empty.

    Raises:
        UserError: a cell holds something else, or an id that the corpus does not have.
    """
    at = f'{where}: column "{column}" of {table.origin}'
    rows = []
    for row, value in enumerate(table.columns[column]):
        ids = _ids(value)
        if ids is None:
            raise cells.wrong_cell(at, 'must hold an id or a list of ids, as ["a", "b"]', value, row)
        for name in ids:
            if name not in corpus.numbers:
                close = nearest(name, corpus.numbers) if len(corpus.numbers) <= 10_000 else None
                hint = f'; did you mean "{close}"?' if close else ""
                rule = f"must hold ids of {Path(corpus.origin).name}, got {show(name)} in row {row + 1}"
                raise UserError(f"{at} {rule}{hint}")
        rows.append(tuple(dict.fromkeys(ids)))
    return rows


def _ids(value: Any) -> list[str] | None:
    """None: a cell that holds no ids."""
    if cells.is_missing(value):
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):  # an id that begins so
            value = json.loads(value, parse_int=NumberText, parse_float=NumberText)
    values = list(value) if isinstance(value, list | tuple) else [value]
    ids = [cells.text_of(one) for one in values]
    return None if any(one is None or not one.strip() for one in ids) else [one for one in ids if one is not None]
