"""`python -m search serve`."""

from __future__ import annotations

import importlib.util
import logging
from typing import Annotated

import typer

from search.cli.options import Debug, Mlruns, number_option, one_of, port, results, whole_option
from search.errors import UserError

EXAMPLE = "python -m search serve question-answering --slo-ms 200"
SERVE_INSTALL = 'pip install "transformer-compression-search[serve,quickstart]"'
#: Hosts that only this machine reaches.
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    fronts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY_OR_DIR]...", help="studies whose fronts answer, or their exported folders"),
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="where it listens")] = "127.0.0.1",
    number_of_port: Annotated[int, typer.Option("--port", parser=port, metavar="PORT")] = 8000,
    slo_ms: Annotated[
        float,
        typer.Option(
            "--slo-ms", parser=number_option(1.0), metavar="MS", help="the time in which 99 % are to be answered"
        ),
    ] = 200.0,
    database: Annotated[
        str | None,
        typer.Option("--database", metavar="URL", help="sqlite:///FILE or postgresql://...; default: MLRUNS/service"),
    ] = None,
    memory_mb: Annotated[
        float,
        typer.Option("--memory-mb", parser=number_option(1.0), metavar="MB", help="of the models that stay loaded"),
    ] = 4000.0,
    prefix_mb: Annotated[
        float,
        typer.Option(
            "--prefix-mb",
            parser=number_option(0.0),
            metavar="MB",
            help="memory for stored prompts, whose shared beginnings are read once; 0: off",
        ),
    ] = 0.0,
    max_batch: Annotated[
        int, typer.Option("--max-batch", parser=whole_option(1), metavar="N", help="rows that one call answers at most")
    ] = 32,
    rate: Annotated[
        float,
        typer.Option(
            "--rate", parser=number_option(1.0), metavar="N", help="requests a second of one client, on average"
        ),
    ] = 50.0,
    workers: Annotated[
        str,
        typer.Option(
            "--workers",
            parser=one_of("thread", "process"),
            metavar="KIND",
            help="models run in a thread, or each in a process",
        ),
    ] = "thread",
    empty: Annotated[
        bool, typer.Option("--empty", help="leave an empty store of passages empty, without the embedded examples")
    ] = False,
    new_key: Annotated[
        str | None, typer.Option("--new-key", metavar="NAME", help="make an API key, print it once, and end")
    ] = None,
    revoke_key: Annotated[
        str | None, typer.Option("--revoke-key", metavar="NAME", help="revoke the API keys of this name, and end")
    ] = None,
    keys: Annotated[bool, typer.Option("--require-keys", help="ask for API keys on this machine too")] = False,
    open_to_all: Annotated[
        bool, typer.Option("--without-keys", help="ask nobody for an API key, though other machines reach the service")
    ] = False,
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """answer questions in real time: a page, an API, and models that change with the load"""
    missing = [name for name in ("fastapi", "uvicorn", "sqlalchemy", "alembic") if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f"serve: {', '.join(missing)} not installed: {SERVE_INSTALL}")
    from search.deliver.read_exported import exported_front
    from search.serve import server

    folder = results(mlruns)
    if open_to_all and keys:
        raise UserError("--without-keys: must be left out with --require-keys")
    settings = server.ServiceSettings(
        fronts=tuple(exported_front(name, folder) for name in fronts or ()),
        folder=folder / "service",
        host=host,
        local=host in LOOPBACK,
        port=number_of_port,
        slo_ms=slo_ms,
        database=database,
        memory_mb=memory_mb,
        prefix_mb=prefix_mb,
        max_batch=max_batch,
        rate=rate,
        workers=workers,
        seed=not empty,
        keys=keys or (host not in LOOPBACK and not open_to_all),
    )
    if new_key is not None and not new_key.strip():
        raise UserError(f"--new-key: must be a name, got {new_key!r}")
    if new_key is not None or revoke_key is not None:
        return _keys(settings, new_key, revoke_key)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    print(f"http://{f'[{host}]' if ':' in host else host}:{number_of_port}", flush=True)
    return server.run(settings)


def _keys(settings: object, new: str | None, revoked: str | None) -> int:
    from search.serve import server

    assert isinstance(settings, server.ServiceSettings)
    archive, writer = server.open_archive(settings)
    try:
        # First: a new key may have the name of those that end.
        if revoked is not None:
            count = archive.revoke_key(revoked).result(30)
            if not count:
                raise UserError(f"--revoke-key: no valid key has the name {revoked!r}")
            print(f"{count} revoked")
        if new is not None:
            print(archive.make_key(new).result(30))
    finally:
        writer.close()
    return 0
