"""An insert of one row that is compiled once, for what is stored while a client waits.

SQLAlchemy looks a statement up and prepares its parameters at each execution. That takes longer than SQLite takes to
store the row, and longest after a model has displaced all this from the processor's caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Dialect, Table, insert


class RowInsert:
    """Inserts rows into `table`, of a database with this dialect.

    A row has a value for every column but its number, the primary key, which the database chooses.
    """

    def __init__(self, table: Table, dialect: Dialect) -> None:
        self._statement = insert(table)
        given = [column for column in table.columns if not column.primary_key]
        #: Each column and what makes the driver's value of its own, in the order of the statement.
        self._columns = [(one.name, one.type.dialect_impl(dialect).bind_processor(dialect)) for one in given]
        #: "" where the number comes as a row of a result, which SQLAlchemy must read.
        self._text = ""
        if dialect.name == "sqlite":
            self._text = str(self._statement.compile(dialect=dialect, column_keys=[one.name for one in given]))

    def __call__(self, connection: Connection, row: Mapping[str, Any]) -> int:
        """Insert the row; its number."""
        if not self._text:
            key = connection.execute(self._statement, row).inserted_primary_key
            assert key is not None  # one row has one
            return int(key[0])
        values = [row[name] if process is None else process(row[name]) for name, process in self._columns]
        return int(connection.exec_driver_sql(self._text, tuple(values)).lastrowid)
