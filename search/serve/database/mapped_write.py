"""Writes of mapped objects, which are shorter to write and take longer than plain statements."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from search.serve.database.writer import Write


def mapped(write: Callable[[Session], Any]) -> Write:
    """`write` with a session, in the transaction of the writer."""

    def flushed(connection: Connection) -> Any:
        with Session(connection) as session:  # its end does not end the transaction
            result = write(session)
            session.flush()
        return result

    return flushed
