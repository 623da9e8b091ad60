"""Reads and writes of the service in its database."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, Engine, exists, func, insert, select
from sqlalchemy.orm import Session

from search.serve.database.many_rows import PASSAGE_ROWS, store_embeddings, store_passages
from search.serve.database.mapped_write import mapped
from search.serve.database.row_insert import RowInsert
from search.serve.database.tables import (
    ApiKey,
    DatabaseTable,
    Feedback,
    Passage,
    PassageEmbedding,
    Question,
    StoredAnswer,
    StoredSwitch,
    now,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from search.serve.database.writer import Writer

#: The prefix of API keys, by which a leaked key is recognised.
KEY_PREFIX = "tcs_"
#: Rows that are read at a time.
PAGE = 1000
#: Plain tables, because statements on mapped classes take longer to execute.
QUESTION_ROWS, ANSWER_ROWS, SWITCH_ROWS = (
    DatabaseTable.metadata.tables[name] for name in ("questions", "answers", "switches")
)


@dataclass(frozen=True)
class NewPassage:
    """A piece of a document."""

    source: str
    position: int
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of source and text, which identifies the passage."""
        return hashlib.sha256(f"{self.source}\0{self.text}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class NewAnswer:
    """A question with its answer, to be stored."""

    request: str
    question: str
    context: str | None
    text: str
    score: float
    start: int
    end: int
    passage_id: int | None
    variant: str
    milliseconds: Mapping[str, float]
    key_id: int | None = None
    task: str = "question-answering"


class Archive:
    """Reads run at once; writes go through the writer and return a future that is done when they are committed."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine, self._writer = engine, writer
        self._insert_question, self._insert_answer = (
            RowInsert(table, engine.dialect) for table in (QUESTION_ROWS, ANSWER_ROWS)
        )

    @property
    def waiting(self) -> int:
        """The number of writes that wait."""
        return self._writer.waiting

    def answered(self, answer: NewAnswer) -> Future[int]:
        """Store a question and its answer; the result is the answer's number.

        A passage that was removed meanwhile is stored as none.
        """

        def write(connection: Connection) -> int:
            # Statements of their own: the unit of work of mapped objects takes longer than SQLite does.
            given, number = answer.passage_id, PASSAGE_ROWS.c.id
            passage = None if given is None else connection.scalar(select(number).where(number == given))
            at = now()
            question = {
                "request": answer.request,
                "task": answer.task,
                "text": clean(answer.question),
                "context": _cleaned(answer.context),
                "key_id": answer.key_id,
                "asked_at": at,
            }
            stored = {
                "question_id": self._insert_question(connection, question),
                "text": clean(answer.text),
                "score": answer.score,
                "start": answer.start,
                "end": answer.end,
                "passage_id": passage,
                "variant": answer.variant,
                "milliseconds": dict(answer.milliseconds),
                "answered_at": at,
            }
            return self._insert_answer(connection, stored)

        return self._writer.put(write)

    def switched(self, rows: Sequence[Mapping[str, Any]]) -> Future[None]:
        """Store switches of a controller, as rows of the table `switches`, oldest first."""

        def write(connection: Connection) -> None:
            connection.execute(insert(SWITCH_ROWS), list(rows))

        return self._writer.put(write)

    def give_feedback(self, answer_id: int, helpful: bool, comment: str | None) -> Future[bool]:
        """Store a user's opinion of an answer; the result is False where there is no such answer."""

        def write(session: Session) -> bool:
            if session.get(StoredAnswer, answer_id) is None:
                return False
            session.add(Feedback(answer_id=answer_id, helpful=helpful, comment=_cleaned(comment)))
            return True

        return self._writer.put(mapped(write))

    def add_passages(self, passages: Sequence[NewPassage]) -> Future[list[int]]:
        """Store passages; the result is their numbers, in order. A passage that exists keeps its number."""

        def write(session: Session) -> list[int]:
            rows = [
                {
                    "source": clean(new.source)[:500],
                    "position": new.position,
                    "text": clean(new.text),
                    "digest": new.digest,
                }
                for new in passages
            ]
            return store_passages(session, rows)

        return self._writer.put(mapped(write))

    def remove_passage(self, number: int) -> Future[bool]:
        """Remove a passage with its embeddings; its answers stay. The result is False where there is none."""

        def write(session: Session) -> bool:
            row = session.get(Passage, number)
            if row is None:
                return False
            session.delete(row)
            return True

        return self._writer.put(mapped(write))

    def embed(self, model: str, vectors: Mapping[int, np.ndarray], digests: Mapping[int, str]) -> Future[list[int]]:
        """Store embeddings (D,) of passages by number; the result is the numbers of those that were stored.

        Passages that no longer exist are left out, also where another one has its number, and so another digest.
        """

        def write(session: Session) -> list[int]:
            rows = {number: vector.astype("<f4").tobytes() for number, vector in vectors.items()}
            return store_embeddings(session, model, rows, digests)

        return self._writer.put(mapped(write))

    def passage(self, number: int) -> Passage | None:
        """The passage of this number, or None."""
        with Session(self._engine, expire_on_commit=False) as session:
            return session.get(Passage, number)

    def passages(self, after: int = 0, limit: int = 100) -> list[Passage]:
        """Passages with a number above `after`, in order."""
        with Session(self._engine, expire_on_commit=False) as session:
            return list(session.scalars(select(Passage).where(Passage.id > after).order_by(Passage.id).limit(limit)))

    def embeddings(self, model: str) -> Iterator[tuple[int, np.ndarray]]:
        """(number, vector (D,)) of every passage that `model` has embedded."""
        of_model = select(PassageEmbedding.passage_id, PassageEmbedding.vector).where(PassageEmbedding.model == model)
        with Session(self._engine) as session:
            rows = session.execute(of_model.order_by(PassageEmbedding.passage_id).execution_options(yield_per=PAGE))
            for number, vector in rows:
                yield number, np.frombuffer(vector, dtype="<f4")

    def not_embedded(self, model: str, limit: int = PAGE) -> list[Passage]:
        """Passages without an embedding by `model`."""
        has = exists().where(PassageEmbedding.passage_id == Passage.id, PassageEmbedding.model == model)
        with Session(self._engine, expire_on_commit=False) as session:
            return list(session.scalars(select(Passage).where(~has).order_by(Passage.id).limit(limit)))

    def history(self, before: int | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """The newest answers with their questions, newest first; those with a number below `before`."""
        wanted = select(StoredAnswer, Question).join(Question, StoredAnswer.question_id == Question.id)
        if before is not None:
            wanted = wanted.where(StoredAnswer.id < before)
        with Session(self._engine) as session:
            rows = session.execute(wanted.order_by(StoredAnswer.id.desc()).limit(limit)).all()
            ids = [answer.id for answer, _ in rows]
            newest_of = select(func.max(Feedback.id)).where(Feedback.answer_id.in_(ids)).group_by(Feedback.answer_id)
            statement = select(Feedback).where(Feedback.id.in_(newest_of))
            newest = {one.answer_id: one for one in session.scalars(statement)}
            return [_shown(answer, question, newest.get(answer.id)) for answer, question in rows]

    def switches(self, before: int | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """The newest switches of the controllers, newest first; those with a number below `before`."""
        wanted = select(StoredSwitch).order_by(StoredSwitch.id.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(StoredSwitch.id < before)
        with Session(self._engine) as session:
            return [_switch(row) for row in session.scalars(wanted)]

    def make_key(self, name: str) -> Future[str]:
        """Create an API key; the result is the key, of which the database stores only the hash."""
        key = KEY_PREFIX + secrets.token_urlsafe(32)

        def write(session: Session) -> str:
            session.add(ApiKey(name=_key_name(name), digest=hash_of(key)))
            return key

        return self._writer.put(mapped(write))

    def revoke_key(self, name: str) -> Future[int]:
        """Revoke the keys of this name; the result is how many were valid."""

        def write(session: Session) -> int:
            valid = select(ApiKey).where(ApiKey.name == _key_name(name), ApiKey.revoked_at.is_(None))
            rows = list(session.scalars(valid))
            for row in rows:
                row.revoked_at = now()
            return len(rows)

        return self._writer.put(mapped(write))

    def key_id(self, key: str) -> int | None:
        """The number of a valid key; None for any other text."""
        valid = select(ApiKey.id).where(ApiKey.digest == hash_of(key), ApiKey.revoked_at.is_(None))
        with Session(self._engine) as session:
            return session.scalar(valid)


def hash_of(key: str) -> str:
    """The stored hash of a key. A key has 256 random bits, which cannot be guessed, so a fast hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def clean(text: str) -> str:
    """`text` as every database can hold it: without NUL, and lone surrogates replaced."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _key_name(name: str) -> str:
    """A key's name as it is stored, which has 200 characters at most."""
    return clean(name)[:200]


def _cleaned(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _switch(row: StoredSwitch) -> dict[str, Any]:
    at = row.switched_at.isoformat()
    return {"id": row.id, "at": at, "from": row.before, "to": row.after, "reason": row.reason}


def _shown(answer: StoredAnswer, question: Question, feedback: Feedback | None) -> dict[str, Any]:
    return {
        "id": answer.id,
        "request": question.request,
        "task": question.task,
        "question": question.text,
        "context": question.context,
        "answer": answer.text,
        "score": answer.score,
        "start": answer.start,
        "end": answer.end,
        "passage": answer.passage_id,
        "variant": answer.variant,
        "milliseconds": answer.milliseconds,
        "asked_at": question.asked_at.isoformat(),
        "answered_at": answer.answered_at.isoformat(),
        "feedback": None if feedback is None else {"helpful": feedback.helpful, "comment": feedback.comment},
    }
