"""Opening the database: SQLite by default, PostgreSQL by its URL, and the migrations of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import UserError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Engine

MIGRATIONS = Path(__file__).with_name("migrations")
#: Milliseconds that SQLite waits for another writer.
BUSY_MS = 5000


def url_of(address: str | None, folder: Path) -> str:
    """The database's SQLAlchemy URL: that of `address`, or an SQLite file in `folder`.

    Raises:
        UserError: `address` is neither of SQLite nor of PostgreSQL.
    """
    if address is None:
        return f"sqlite:///{(folder / 'service.db').absolute()}"
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
        UserError: the database does not exist or does not answer.
    """
    from sqlalchemy import create_engine, event, make_url
    from sqlalchemy.exc import DBAPIError

    # Parameters are questions, passages and hashes of keys: no error may carry them into a log.
    engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_connect)
    try:
        upgrade(engine)
    except DBAPIError as error:
        public_url = make_url(url).render_as_string(hide_password=True)
        raise UserError(f"--database: {public_url} cannot be used: {str(error.orig).splitlines()[0]}") from None
    return engine


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables to `revision`."""
    from alembic import command

    with engine.begin() as connection:
        command.upgrade(_alembic(connection), revision)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the tables back to `revision`; "base" drops all of them."""
    from alembic import command

    with engine.begin() as connection:
        command.downgrade(_alembic(connection), revision)


def _alembic(connection: Any) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _on_connect(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
        connection.execute(f"PRAGMA {pragma}")
