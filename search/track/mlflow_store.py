"""MLflow's stores, and MLflow itself, which is imported late, quietly, and without telemetry."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from objectives.quiet import quietly
from search.errors import UserError, disk_is_full, one_line, wrong
from search.store.atomic import replacing, sweep
from search.store.locks import alone_in, check_writable

URI = "MLFLOW_TRACKING_URI"
#: Where databases listen that name no port.
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def load_mlflow() -> Any:
    """The mlflow module (two seconds at the first call). Its settings are unchanged where it is imported already."""
    loaded = sys.modules.get("mlflow")
    if loaded is not None:
        return loaded
    with quietly(), with_a_home():
        import mlflow
    for name in ("mlflow", "alembic"):  # they report every migration and every missing git repository
        logging.getLogger(name).setLevel(logging.ERROR)
    # It shows the traceback of every error of a database that it raises too, such as that of a full disk.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow


@contextlib.contextmanager
def with_a_home() -> Iterator[None]:
    """Inside the block there is a home folder, if only the root: a user of a container may have none.

    MLflow asks for it on import, and ends where there is none.
    """
    if os.path.isabs(os.path.expanduser("~")):
        yield
        return
    before = os.environ.get("HOME")
    os.environ["HOME"] = os.sep
    try:
        yield
    finally:
        os.environ.pop("HOME")
        if before is not None:
            os.environ["HOME"] = before


def tracking_uri(store: Path) -> str:
    """MLFLOW_TRACKING_URI where it is set, else the database in the folder `store`."""
    return os.environ.get(URI) or f"sqlite:///{store.absolute() / 'mlflow.db'}"


def create_store(store: Path) -> None:
    """Create the database in the folder `store` if it does not exist, atomically.

    MLflow makes it in fifty migrations, and cannot go on with one that was cut short on the way.
    """
    final = store / "mlflow.db"
    with alone_in(store):
        if final.exists():
            return
        sweep(store)
        with replacing(final) as partial:
            load_mlflow().MlflowClient(f"sqlite:///{partial.absolute()}").search_experiments(max_results=1)


#: Tag of an experiment: the results folder that its artifacts are in, as an address. MLflow keeps no relative ones.
RESULTS = "search.results"
#: Where MLflow keeps addresses of artifacts: (table, column).
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow(store: Path) -> None:
    """Make the database in the folder `store` look for artifacts there, also after the folder was moved or copied.

    MLflow keeps the absolute address of every artifact. Those of our experiments are changed, all or none, where they
    are of the folder's earlier path.
    """
    here = store.absolute().as_uri()
    with contextlib.closing(sqlite3.connect(store / "mlflow.db", timeout=60)) as database, database:
        tagged = database.execute("SELECT DISTINCT value FROM experiment_tags WHERE key = ?", (RESULTS,))
        moved = [earlier for (earlier,) in tagged.fetchall() if earlier != here]
        for earlier in moved:
            for table, column in ADDRESSES:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (here, len(earlier) + 1, len(earlier) + 1, f"{earlier}/"),
                )
            database.execute(
                "UPDATE experiment_tags SET value = ? WHERE key = ? AND value = ?", (here, RESULTS, earlier)
            )


def check_store(store: Path) -> None:
    """Check that MLflow accepts logging, on the server of MLFLOW_TRACKING_URI or in the database in `store`.

    Raises:
        UserError: it does not answer, or cannot be written.
    """
    uri = os.environ.get(URI)
    if not uri:
        check_writable(store / "mlflow.db")
        return
    mlflow = load_mlflow()
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).exists():  # MLflow makes one, and would try for minutes in a missing folder
        if not Path(path).parent.is_dir():
            raise wrong(URI, "a database in a folder that is there", uri)
        return
    try:
        _reach(uri)
        with quietly():
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # every kind of store brings its own: requests', SQLAlchemy's, urllib3's
        if disk_is_full(error):
            raise
        raise UserError(
            f"{URI}: must be an MLflow store that answers, got {uri}: {one_line(error)}; start it, or unset {URI}"
        ) from error


def _reach(uri: str) -> None:
    """Raise OSError where nobody listens at a database's address; MLflow itself would try for minutes."""
    address = urlsplit(uri)
    port = PORTS.get(address.scheme.partition("+")[0])
    if address.hostname and port is not None:
        socket.create_connection((address.hostname, address.port or port), timeout=10).close()


def is_database(uri: str) -> bool:
    """Whether the store is a database that this process opens itself, not a server."""
    return uri.partition(":")[0] in ("sqlite", "postgresql", "mysql", "mssql") or "+" in uri.partition(":")[0]


def ui_command(store: Path) -> list[str]:
    """The command that opens the MLflow UI on the right store (a plain `mlflow ui` would open an empty one).

    Raises:
        UserError: the store is a server, which has its own UI.
    """
    uri = tracking_uri(store)
    if URI not in os.environ and (store / "mlflow.db").exists():
        follow(store)
    if not is_database(uri):
        raise UserError(f"{URI}: must be a database to start a UI on, got {uri}; open that address in a browser")
    return [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]


def ui_text(mlruns: Path, page: str) -> str:
    """The exact command that opens the MLflow UI on this store, and the address of `page` there."""
    uri = tracking_uri(mlruns)
    if not is_database(uri):  # a server has its own
        return f"{uri.rstrip('/')}{page}"
    return f"{shlex.join(ui_command(mlruns))}  then http://127.0.0.1:5000{page}"
