"""Opening the database: SQLite by default, PostgreSQL by its URL, and the migrations of both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import UserError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, Engine

MIGRATIONS = Path(__file__).with_name("migrations")
#: Milliseconds that SQLite waits for another writer.
BUSY_MS = 5000
#: Pages of SQLite's log from which on a commit writes it into the file, if the writer has not done so before.
MOST_LOGGED = 10_000
#: Seconds in which a PostgreSQL server must take a connection, and after which a connection without an answer is given
#: up (the last is in milliseconds). Without them a thread waits for minutes, and the service could not end meanwhile.
SERVER_WAITS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
#: SQLite's names of a database in memory, which each connection has for itself.
IN_MEMORY = ("sqlite:///", "sqlite:///:memory:")


def url_of(address: str | None, folder: Path) -> str:
    """The database's SQLAlchemy URL: that of `address`, or an SQLite file in `folder`.

    Raises:
        UserError: `address` is neither an SQLite file nor of PostgreSQL.
    """
    if address is None:
        return f"sqlite:///{(folder / 'service.db').absolute()}"
    if address in IN_MEMORY:
        raise UserError(f"--database: must be a file, got {address}, which is in memory: sqlite:///FILE")
    for prefix, driver in (("postgresql://", "postgresql+psycopg://"), ("postgres://", "postgresql+psycopg://")):
        if address.startswith(prefix):
            return driver + address.removeprefix(prefix)
    if address.startswith(("sqlite:///", "postgresql+psycopg://")):
        return address
    scheme = address.partition("://")[0]
    raise UserError(f"--database: must begin with sqlite:/// or postgresql://, got {scheme}://...")


def open_engine(url: str) -> Engine:
    """An engine with its tables at the newest migration.

    SQLite uses a write-ahead log, so readers never wait for the writer, and commits survive a killed process.

    Raises:
        UserError: the database does not exist, does not answer, or is of a newer version.
    """
    from alembic.util import CommandError
    from sqlalchemy import create_engine, event, make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError

    try:
        address = make_url(url)
    except (ArgumentError, ValueError):  # its message has the password
        raise UserError("--database: must be postgresql://USER@HOST:PORT/NAME, with a number as PORT") from None
    waits = {} if address.get_backend_name() == "sqlite" else SERVER_WAITS
    own = {name: value for name, value in waits.items() if name not in address.query}
    # A connection to a file does not break, so it needs no check before each use.
    file = address.get_backend_name() == "sqlite"
    # Parameters are questions, passages and hashes of keys: no error may carry them into a log.
    engine = create_engine(address, pool_pre_ping=not file, hide_parameters=True, connect_args=own)
    if file:
        event.listen(engine, "connect", _on_connect)
    # Options may have passwords too, as ?password= and ?sslpassword=.
    public_url = address.set(query={}).render_as_string(hide_password=True)
    try:
        upgrade(engine)
    except CommandError:
        raise UserError(f"--database: {public_url} has the tables of a newer version of this program") from None
    except DBAPIError as error:
        raise UserError(f"--database: {public_url} cannot be used: {str(error.orig).splitlines()[0]}") from None
    return engine


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables to `revision`, or leave them as they are where that fails."""
    from alembic import command

    with _migrating(engine) as connection:
        command.upgrade(_alembic(connection), revision)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the tables back to `revision`; "base" drops all of them."""
    from alembic import command

    with _migrating(engine) as connection:
        command.downgrade(_alembic(connection), revision)


@contextlib.contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """A connection in one transaction for all migrations, so that a service killed meanwhile can start again."""
    if engine.dialect.name != "sqlite":
        with engine.begin() as connection:
            yield connection
        return
    # Python's driver begins no transaction for a change of tables, and commits each of them by itself.
    with engine.execution_options(isolation_level="AUTOCOMMIT").begin() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


def _alembic(connection: Any) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _on_connect(connection: Any, _: Any) -> None:
    own = (f"busy_timeout={BUSY_MS}", f"wal_autocheckpoint={MOST_LOGGED}")
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", *own):
        connection.execute(f"PRAGMA {pragma}")
