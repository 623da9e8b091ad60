"""Data of sentence similarity: queries with relevant passages, or pairs of texts with a similarity score.

Rows are checked one by one and cut into train, validation and test. A query is its text, and so is a passage: what is
repeated is there once, and a query that stands in several rows has all of their passages. Where there is a corpus
(`search.tasks.corpus`), rows name its passages by their ids, and all of them are searched.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from search.errors import UserError, Where, show, wrong
from search.tasks import cells
from search.tasks.corpus import Corpus, PassageData, read_corpus, relevant_ids
from search.tasks.rows import SPLITS, cuts, hash_fractions, lowest
from search.tasks.tables import Table, read_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Passages:
    """Queries of one split and the passages of its rows, each in the order in which it first stands in the file."""

    queries: tuple[str, ...]
    query_ids: tuple[str, ...]
    passages: tuple[str, ...]
    passage_ids: tuple[str, ...]
    relevant: tuple[tuple[int, ...], ...]  # of each query: which of the passages, at least one

    def __len__(self) -> int:
        return len(self.queries)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the content: equal for equal rows in equal order."""
        return _digest(self.queries, self.query_ids, self.passages, self.passage_ids, self.relevant)

    def shown(self, row: int) -> str:
        return f"the text {show((*self.queries, *self.passages)[row])}"

    def rows(self, chosen: np.ndarray) -> Passages:
        """The queries with these indices, in this order, and their passages alone."""
        numbers = list(dict.fromkeys(passage for i in chosen for passage in self.relevant[i]))
        return Passages(
            tuple(self.queries[i] for i in chosen),
            tuple(self.query_ids[i] for i in chosen),
            tuple(self.passages[i] for i in numbers),
            tuple(self.passage_ids[i] for i in numbers),
            tuple(tuple(numbers.index(passage) for passage in self.relevant[i]) for i in chosen),
        )


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of texts of one split, in the order of the file."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: np.ndarray  # (N,) float64: the higher, the more alike

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the content: equal for equal rows in equal order."""
        return _digest(self.first, self.second, self.scores.tolist())

    def shown(self, row: int) -> str:
        return f"the text {show((*self.first, *self.second)[row])}"

    def rows(self, chosen: np.ndarray) -> ScoredPairs:
        """The pairs with these indices, in this order."""
        first, second = (tuple(column[i] for i in chosen) for column in (self.first, self.second))
        return ScoredPairs(first, second, self.scores[chosen])


def _digest(*columns: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _TextPairs:
    """Rows of one split as they stand in the file, two texts each; ids or scores are empty where the data have none."""

    origin: str  # for messages
    first: tuple[str, ...]
    second: tuple[str, ...]
    first_ids: tuple[str, ...]
    second_ids: tuple[str, ...]
    scores: np.ndarray | None

    def at(self, chosen: np.ndarray) -> _TextPairs:
        def of(column: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(column[i] for i in chosen) if column else ()

        scores = None if self.scores is None else self.scores[chosen]
        return _TextPairs(self.origin, of(self.first), of(self.second), of(self.first_ids), of(self.second_ids), scores)

    def keys(self) -> list[str]:
        """What must not occur in two splits: a query; of scored pairs both texts, in either order."""
        if self.scores is None:
            return list(self.first)
        return ["\0".join(sorted(pair)) for pair in zip(self.first, self.second, strict=True)]


SplitPassages = tuple[Passages, Passages, Passages] | tuple[ScoredPairs, ScoredPairs, ScoredPairs]


def read_passages(data: PassageData, where: Where) -> tuple[SplitPassages, tuple[str, ...]]:
    """((train, validation, test), what was done to the data); scored pairs where `data.score` names a column.

    Missing splits are cut from train by hash of the query, so that all passages of a query stay with it; `data.limit`
    counts queries, for the same reason. Of scored pairs, both go by the pair.

    Raises:
        UserError: see `read_table`; texts that are missing or blank, a name of two texts, scores that are no numbers,
            too few rows.
    """
    _check_keys(data, where)
    tables = {split: read_table(data, split, where, _keys(data)) for split in data.splits}
    notes = [note for table in tables.values() for note in table.notes]
    corpus = read_corpus(data, where, notes)
    parts = {
        split: _rows(table, data, where, notes) if corpus is None else _with_ids(table, data, corpus, where, notes)
        for split, table in tables.items()
    }
    what = "query" if data.score is None else "pair"
    parts = _cut(parts, what, where, notes)
    if data.limit is not None:
        parts = {split: _limited(rows, data.limit) for split, rows in parts.items()}
    _note_overlap(parts, what, notes)
    for note in notes:
        log.info(note)
    split_parts: Any = tuple(
        _pairs(rows)
        if rows.scores is not None
        else _passages(rows)
        if corpus is None or split == "train"  # training needs no passage that no query of train asks for
        else _in_corpus(rows, corpus)
        for split, rows in ((split, parts[split]) for split in SPLITS)
    )
    return split_parts, tuple(notes)


def _keys(data: PassageData) -> tuple[str, ...]:
    """The keys of `data` that name columns of the rows."""
    if data.score is not None:
        return ("query", "passage", "score")
    return ("query", "query_id", "passage", "passage_id") if data.corpus is None else ("query", "query_id", "relevant")


def _check_keys(data: PassageData, where: Where) -> None:
    """Raise UserError for keys that do not go together."""
    if data.corpus is None and data.query == data.passage:
        raise wrong(where("data.passage"), "another column than data.query", data.passage)
    for key in ("query_id", "passage_id", "corpus"):
        if data.score is not None and getattr(data, key) is not None:
            raise wrong(where(f"data.{key}"), "left out where data.score is given", getattr(data, key))
    if data.corpus is not None and data.passage_id is not None:
        raise wrong(where("data.passage_id"), "left out where data.corpus is given", data.passage_id)
    for key, other in (("relevant", "query"), ("corpus_text", "corpus_id")):
        if data.corpus is not None and getattr(data, key) == getattr(data, other):
            raise wrong(where(f"data.{key}"), f"another column than data.{other}", getattr(data, key))


def _rows(table: Table, data: PassageData, where: Where, notes: list[str]) -> _TextPairs:
    """The checked rows of a table."""
    first = cells.filled(table, data.query, where("data.query"), notes)
    second = cells.filled(table, data.passage, where("data.passage"), notes)
    if data.score is not None:
        return _TextPairs(table.origin, first, second, (), (), cells.finite(table, data.score, where("data.score")))
    first_ids = _ids(table, data.query_id, first, where("data.query_id"))
    second_ids = _ids(table, data.passage_id, second, where("data.passage_id"))
    repeated = len(first) - len(set(zip(first, second, strict=True)))
    if repeated:
        notes.append(f"{repeated} rows of {Path(table.origin).name} repeat a query with the same passage: used once")
    return _TextPairs(table.origin, first, second, first_ids, second_ids, None)


def _with_ids(table: Table, data: PassageData, corpus: Corpus, where: Where, notes: list[str]) -> _TextPairs:
    """The checked rows of a table that names passages of a corpus, a row for each query with one passage."""
    queries = cells.filled(table, data.query, where("data.query"), notes)
    query_ids = _ids(table, data.query_id, queries, where("data.query_id"))
    relevant = relevant_ids(table, data.relevant, where("data.relevant"), corpus)
    without = sum(not ids for ids in relevant)
    if without == len(relevant):
        at = f'{where("data.relevant")}: column "{data.relevant}" of {table.origin}'
        raise UserError(f"{at} must hold the id of a relevant passage, got none in any of {len(relevant)} rows")
    if without:
        notes.append(f"{without} rows of {Path(table.origin).name} dropped: their query has no relevant id")
    of = [(row, name) for row, ids in enumerate(relevant) for name in ids]
    return _TextPairs(
        table.origin,
        tuple(queries[row] for row, _ in of),
        tuple(corpus.texts[corpus.numbers[name]] for _, name in of),
        tuple(query_ids[row] for row, _ in of),
        tuple(name for _, name in of),
        None,
    )


def _ids(table: Table, column: str | None, texts: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The names of the rows' texts; without a column for them, the number of each row."""
    if column is None:
        return tuple(str(row + 1) for row in range(len(texts)))
    ids = cells.filled(table, column, where, [])
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        before = first.setdefault(name, row)
        if texts[before] != texts[row]:
            at = f'{where}: column "{column}" of {table.origin}'
            rows = f"rows {before + 1} and {row + 1}, whose texts differ"
            raise UserError(f"{at} must have another name for each text, got {show(name)} in {rows}")
    return ids


def _cut(parts: Mapping[str, _TextPairs], what: str, where: Where, notes: list[str]) -> dict[str, _TextPairs]:
    """`parts` with the missing splits cut from train by hash."""
    train = parts["train"]
    chosen = cuts(hash_fractions(train.keys()), tuple(parts), what, train.origin, where, notes)
    if not len(chosen["train"]):
        rows = f"all {len(train.first)} rows of {train.origin} were cut from it"
        raise UserError(f"{where('data.train')}: {rows}; give more, or files for data.validation and data.test")
    return {split: train.at(chosen[split]) if split in chosen else parts[split] for split in SPLITS}


def _limited(rows: _TextPairs, limit: int) -> _TextPairs:
    """The rows of `limit` queries, or as many scored pairs, chosen by hash, in the order of the file."""
    keys = rows.keys()
    # Two rows may hold one scored pair: they are two pairs, and all rows of a query are one query.
    units = list(dict.fromkeys(keys)) if rows.scores is None else keys
    drawn = lowest(hash_fractions(units), limit)
    if rows.scores is not None:
        return rows.at(drawn)
    wanted = {units[i] for i in drawn}
    return rows.at(np.array([i for i, key in enumerate(keys) if key in wanted], dtype=np.int64))


def _note_overlap(parts: Mapping[str, _TextPairs], what: str, notes: list[str]) -> None:
    keys = {split: set(rows.keys()) for split, rows in parts.items()}
    several = {"query": "queries", "pair": "pairs"}[what]
    for split in ("validation", "test"):
        shared = len(keys[split] & keys["train"])
        if shared:
            total = f"{shared} of {len(keys[split])} {split} {several}"
            notes.append(f"{total} are in train too: its figures will be too good")


def _passages(rows: _TextPairs) -> Passages:
    queries: dict[str, dict[int, None]] = {}  # its passages, each once
    numbers: dict[str, int] = {}
    query_ids: dict[str, str] = {}
    passage_ids: dict[str, str] = {}
    for query, passage, query_id, passage_id in zip(
        rows.first, rows.second, rows.first_ids, rows.second_ids, strict=True
    ):
        queries.setdefault(query, {})[numbers.setdefault(passage, len(numbers))] = None
        query_ids.setdefault(query, query_id)
        passage_ids.setdefault(passage, passage_id)
    relevant = tuple(tuple(numbered) for numbered in queries.values())
    return Passages(tuple(queries), tuple(query_ids.values()), tuple(numbers), tuple(passage_ids.values()), relevant)


def _in_corpus(rows: _TextPairs, corpus: Corpus) -> Passages:
    """The queries with all passages of the corpus."""
    queries: dict[str, dict[int, None]] = {}
    query_ids: dict[str, str] = {}
    for query, query_id, passage_id in zip(rows.first, rows.first_ids, rows.second_ids, strict=True):
        queries.setdefault(query, {})[corpus.numbers[passage_id]] = None
        query_ids.setdefault(query, query_id)
    relevant = tuple(tuple(numbered) for numbered in queries.values())
    return Passages(tuple(queries), tuple(query_ids.values()), corpus.texts, corpus.ids, relevant)


def _pairs(rows: _TextPairs) -> ScoredPairs:
    assert rows.scores is not None
    return ScoredPairs(rows.first, rows.second, rows.scores)
