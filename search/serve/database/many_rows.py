"""Statements that store many rows at once.

All writes have one thread, so an answer waits until the passages that are stored before it are: few statements, however
many they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from search.serve.database.tables import DatabaseTable, Passage

Element = TypeVar("Element")

#: Values in the list of one statement; older versions of SQLite take 999.
LISTED = 500
PASSAGE_ROWS, EMBEDDING_ROWS = (DatabaseTable.metadata.tables[name] for name in ("passages", "embeddings"))


def store_passages(session: Session, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Store those of the rows of `passages` whose digest is not there yet; the number of each row, in order."""
    digests = list(dict.fromkeys(row["digest"] for row in rows))
    numbers = _numbers(session, digests)
    new: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["digest"] not in numbers:
            new.setdefault(row["digest"], dict(row))
    if new:
        session.connection().execute(insert(PASSAGE_ROWS), list(new.values()))
        numbers |= _numbers(session, list(new))
    return [numbers[row["digest"]] for row in rows]


def store_embeddings(
    session: Session, model: str, vectors: Mapping[int, bytes], digests: Mapping[int, str]
) -> list[int]:
    """Store the embeddings of passages that still have the digest that is given; their numbers, in order."""
    there: dict[int, str] = {}
    for numbers in _parts(list(vectors)):
        found = session.execute(select(Passage.id, Passage.digest).where(Passage.id.in_(numbers)))
        for number, digest in found:
            there[number] = digest
    stored = [number for number in vectors if there.get(number) == digests[number]]
    connection, columns = session.connection(), EMBEDDING_ROWS.c
    for numbers in _parts(stored):
        # One that is there already, of the same model, is replaced.
        connection.execute(delete(EMBEDDING_ROWS).where(columns.model == model, columns.passage_id.in_(numbers)))
    if stored:
        rows = [{"passage_id": number, "model": model, "vector": vectors[number]} for number in stored]
        connection.execute(insert(EMBEDDING_ROWS), rows)
    return stored


def _numbers(session: Session, digests: Sequence[str]) -> dict[str, int]:
    """The numbers of the stored passages among these digests."""
    numbers: dict[str, int] = {}
    for part in _parts(digests):
        found = session.execute(select(Passage.digest, Passage.id).where(Passage.digest.in_(part)))
        for digest, number in found:
            numbers[digest] = number
    return numbers


def _parts(values: Sequence[Element]) -> Iterator[Sequence[Element]]:
    """The values in parts that a statement takes."""
    for start in range(0, len(values), LISTED):
        yield values[start : start + LISTED]
