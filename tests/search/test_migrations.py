"""The database's tables: made, changed and taken away by migrations, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text
from statements import before_each

from search.errors import UserError
from search.serve.database.archive import Archive, NewAnswer
from search.serve.database.engine import SERVER_WAITS, downgrade, open_engine, upgrade, url_of
from search.serve.database.tables import DatabaseTable

ANSWER = NewAnswer("r1", "who?", None, "she", 0.5, 3, 6, None, "trial 7", {"model": 4.5})


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def test_migrations_make_the_tables_and_take_them_away(engine: Engine) -> None:
    assert tables(engine) == set(DatabaseTable.metadata.tables)
    downgrade(engine)
    assert tables(engine) == set()
    upgrade(engine)
    upgrade(engine)  # again changes nothing
    assert tables(engine) == set(DatabaseTable.metadata.tables)
    downgrade(engine, "0002")
    with engine.begin() as connection:  # earlier versions could be killed between a column and its revision
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    upgrade(engine)
    assert tables(engine) == set(DatabaseTable.metadata.tables)


def test_the_migrated_tables_are_those_of_the_program(engine: Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), DatabaseTable.metadata) == []


@pytest.mark.parametrize(
    ("change", "statement"), [(upgrade, "CREATE TABLE answers"), (downgrade, "DROP TABLE questions")]
)
def test_a_migration_that_is_broken_off_changes_nothing(engine: Engine, change: Any, statement: str) -> None:
    """Or a service that is killed at its first start could not be started again."""

    def breaks_off(begun: str) -> None:
        if begun.startswith(statement):
            raise RuntimeError("killed")

    if change is upgrade:
        downgrade(engine)
    before = tables(engine)
    with before_each(engine, breaks_off), pytest.raises(RuntimeError, match="killed"):
        change(engine)
    assert tables(engine) == before
    change(engine)
    assert tables(engine) == set(DatabaseTable.metadata.tables) - before


def test_each_migration_is_taken_back_and_made_again_around_what_is_stored(archive: Archive, engine: Engine) -> None:
    number = archive.answered(ANSWER).result(5)
    for revision in ("0002", "0001"):
        downgrade(engine, revision)
        upgrade(engine)
        assert [(one["id"], one["answer"]) for one in archive.history()] == [(number, "she")]


def test_what_refers_to_a_passage_is_found_by_an_index() -> None:
    """Or the writer would read all answers for each passage that is removed."""
    for table in DatabaseTable.metadata.tables.values():
        indexes = (table.primary_key.columns, *(index.columns for index in table.indexes))
        first = {columns.keys()[0] for columns in indexes}
        refers = {key.parent.name for key in table.foreign_keys if key.column.table.name == "passages"}
        assert refers <= first, table.name


@pytest.mark.parametrize("address", ["sqlite:///", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(address: str) -> None:
    """Each connection would have its own."""
    with pytest.raises(UserError, match=f"--database: must be a file, got {address}, which is in memory"):
        url_of(address, Path())


@pytest.mark.parametrize("address", ["mysql://u:secret@h/d", "nothing"])
def test_another_database_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(UserError, match="--database: must begin with sqlite:/// or postgresql://") as caught:
        url_of(address, Path())
    assert "secret" not in str(caught.value)


def test_a_database_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--database: sqlite:///.* cannot be used: unable to open"):
        open_engine(f"sqlite:///{tmp_path}/none/x.db")
    pytest.importorskip("psycopg")
    with pytest.raises(UserError, match="cannot be used") as caught:
        open_engine(url_of("postgresql://me:secret@127.0.0.1:1/d", tmp_path))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("option", ["password", "sslpassword"])
def test_a_password_among_the_options_of_an_address_is_not_told(tmp_path: Path, option: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(UserError, match=r"--database: postgresql\+psycopg://me@127.0.0.1:1/d cannot be used") as caught:
        open_engine(url_of(f"postgresql://me@127.0.0.1:1/d?{option}=secret", tmp_path))
    assert "secret" not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setitem(SERVER_WAITS, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/d"
        began = time.monotonic()
        with pytest.raises(UserError, match="cannot be used") as caught:
            open_engine(url_of(address, Path()))
    assert time.monotonic() - began < 20 and "secret" not in str(caught.value)


def test_an_address_that_cannot_be_read_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--database: must be postgresql://USER@HOST:PORT/NAME") as caught:
        open_engine(url_of("postgresql://me:secret@host:port/d", tmp_path))
    assert "secret" not in str(caught.value)


def test_tables_of_a_newer_version_are_refused(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        newest = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="has the tables of a newer version of this program"):
        open_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :newest"), {"newest": newest})
