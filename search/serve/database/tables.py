"""The tables. Times are UTC; texts are Unicode without NUL, which PostgreSQL cannot hold."""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Double, ForeignKey, Index, LargeBinary, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

#: Names of constraints, so that a migration can name what it drops on every database.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


def now() -> datetime.datetime:
    """The current time in UTC."""
    return datetime.datetime.now(datetime.UTC)


class UtcTime(TypeDecorator[datetime.datetime]):
    """A time in UTC. SQLite stores no time zone, so UTC is added to times that are read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime.datetime | None, dialect: Any) -> datetime.datetime | None:
        return value.replace(tzinfo=datetime.UTC) if value is not None and value.tzinfo is None else value


class DatabaseTable(DeclarativeBase):
    """The base class of all tables."""

    metadata = MetaData(naming_convention=NAMING)


class Passage(DatabaseTable):
    """A text that questions are answered from: a piece of a document."""

    __tablename__ = "passages"
    __table_args__ = (UniqueConstraint("digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(500))  # the document's title or file name
    position: Mapped[int]  # of the piece in its document, from 0
    text: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of source and text: a passage is kept once
    added_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)


class PassageEmbedding(DatabaseTable):
    """A passage's embedding by one model."""

    __tablename__ = "embeddings"

    passage_id: Mapped[int] = mapped_column(ForeignKey("passages.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(String(64), primary_key=True)  # digest of the model that made it
    vector: Mapped[bytes] = mapped_column(LargeBinary)  # (D,) little-endian float32, of length 1


class Question(DatabaseTable):
    """A question as it was asked."""

    __tablename__ = "questions"

    id: Mapped[int] = mapped_column(primary_key=True)
    request: Mapped[str] = mapped_column(String(64))  # the request's id, which logs name too
    task: Mapped[str] = mapped_column(String(50), server_default="question-answering")  # what was asked for
    text: Mapped[str] = mapped_column(Text)
    context: Mapped[str | None] = mapped_column(Text)  # that came with the question; None: passages were searched
    key_id: Mapped[int | None] = mapped_column(ForeignKey("api_keys.id", ondelete="SET NULL"))
    asked_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now, index=True)


class StoredAnswer(DatabaseTable):
    """The answer to a question. It is stored before it is sent."""

    __tablename__ = "answers"

    id: Mapped[int] = mapped_column(primary_key=True)
    question_id: Mapped[int] = mapped_column(ForeignKey("questions.id", ondelete="CASCADE"), index=True)
    text: Mapped[str] = mapped_column(Text)
    score: Mapped[float] = mapped_column(Double)
    start: Mapped[int]  # of the answer in its passage or context, in characters; -1 where it is in none
    end: Mapped[int]
    # An index: a passage that is removed is looked for in every answer.
    passage_id: Mapped[int | None] = mapped_column(ForeignKey("passages.id", ondelete="SET NULL"), index=True)
    variant: Mapped[str] = mapped_column(String(200))  # the member of the front that answered
    milliseconds: Mapped[dict[str, float]] = mapped_column(JSON)  # by stage
    answered_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)


class Feedback(DatabaseTable):
    """A user's opinion of an answer; the newest one counts."""

    __tablename__ = "feedback"

    id: Mapped[int] = mapped_column(primary_key=True)
    answer_id: Mapped[int] = mapped_column(ForeignKey("answers.id", ondelete="CASCADE"), index=True)
    helpful: Mapped[bool]
    comment: Mapped[str | None] = mapped_column(Text)
    given_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)


class StoredSwitch(DatabaseTable):
    """A switch of the controller from one variant to another."""

    __tablename__ = "switches"

    id: Mapped[int] = mapped_column(primary_key=True)
    before: Mapped[str] = mapped_column(String(200))
    after: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    switched_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now, index=True)


class ApiKey(DatabaseTable):
    """A key of the API, of which only the hash is stored."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("digest"), Index("ix_api_keys_name", "name"))

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256; keys are random, so no slow hash is needed
    made_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    revoked_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)
