"""Starting the service: database, passages, fleets, and the web server around the application."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from search.errors import UserError
from search.serve.batching import Limits
from search.serve.database.archive import Archive, NewPassage
from search.serve.database.engine import open_engine, url_of
from search.serve.database.writer import Writer, WriterFullError
from search.serve.dispatcher import ExpiredError, FailedError, RefusedError
from search.serve.fleet import EMBEDDING_TASK, Fleet, load_fleet
from search.serve.guard import Guarding
from search.serve.packaged_embedder import PackagedEmbedder
from search.serve.packaged_fleet import USUAL, embedding_fleet, embedding_processes
from search.serve.passage_index import Index
from search.serve.service import Service
from search.serve.silent_connections import SilentConnections
from search.serve.switch_log import SwitchLog

log = logging.getLogger(__name__)

#: Seconds between two searches for passages that have no embedding.
LEFT_S = 60.0
QUICKSTART = Path(__file__).parents[1] / "quickstart" / "question_answering"


@dataclass(frozen=True)
class ServiceSettings:
    """The settings of the command line."""

    fronts: tuple[Path, ...]
    folder: Path  # of the service's own files
    host: str = "127.0.0.1"
    local: bool = True  # whether the host is the loopback
    port: int = 8000
    slo_ms: float = 200.0
    database: str | None = None
    memory_mb: float = 4000.0
    prefix_mb: float = 0.0  # of prompts that each language model stores
    max_batch: int = 32  # rows that one call answers at most
    rate: float = 50.0  # requests a second of one client, on average
    workers: str = "thread"  # or "process"
    keys: bool = False
    seed: bool = True  # whether an empty store gets the embedded passages


def open_archive(settings: ServiceSettings) -> tuple[Archive, Writer]:
    """The database and its writer, which the caller must close."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    engine = open_engine(url_of(settings.database, settings.folder))
    writer = Writer(engine)
    return Archive(engine, writer), writer


def load_fleets(settings: ServiceSettings, limits: Limits) -> dict[str, Fleet]:
    """The fleets of the named fronts, by task; where one fails all are closed.

    Raises:
        UserError: two fronts have the same task, or one cannot be loaded.
    """
    fleets: dict[str, Fleet] = {}
    memory_mb = settings.memory_mb / max(len(settings.fronts), 1)
    with contextlib.ExitStack() as failing:
        for folder in settings.fronts:
            fleet = load_fleet(folder, limits, memory_mb, workers=settings.workers, prefix_mb=settings.prefix_mb)
            failing.callback(fleet.close)
            task = fleet.task
            if task in fleets:
                raise UserError(f"{folder}: one study per task; {fleets[task].study} has the task {task} too")
            fleets[task] = fleet
        failing.pop_all()
    return fleets


def close_fleets(fleets: Mapping[str, Fleet]) -> None:
    """Answer what waits, then end the fleets."""
    for fleet in fleets.values():
        fleet.close()


def embedder_identity(fleet: Fleet, settings: ServiceSettings) -> tuple[str, int]:
    """(digest, size of an embedding) of the model that embeds, by its record."""
    [variant] = fleet.variants
    # Studies of two results folders may have the same name.
    front = next(folder for folder in settings.fronts if named_in(folder) == (fleet.study, fleet.task))
    record = (front / "models" / str(variant.number) / "recipe.yaml").read_bytes()
    return hashlib.sha256(record).hexdigest()[:16], len(fleet.answers[variant.number]([USUAL])[0])


def named_in(folder: Path) -> tuple[str, str]:
    """(name, task) of the study whose front is exported there."""
    front = json.loads((folder / "front.json").read_text(encoding="utf-8"))
    return str(front["study"]), str(front["task"])


def seeds() -> list[NewPassage]:
    """The contexts of the embedded question-answering example, each a passage."""
    from pyarrow import parquet

    texts: dict[str, str] = {}  # text -> title
    for name in ("test", "validation"):
        table = parquet.read_table(QUICKSTART / f"{name}.parquet", columns=["title", "context"])
        for title, text in zip(*(table.column(c).to_pylist() for c in ("title", "context")), strict=True):
            texts.setdefault(text.strip(), str(title).replace("_", " "))
    return [NewPassage(title, 0, text) for text, title in texts.items()]


def fill_index(index: Index, rows: Iterable[tuple[int, np.ndarray]]) -> None:
    """Add stored embeddings to the index, in one call; those of another size are skipped with a warning."""

    def fitting() -> Iterator[tuple[int, np.ndarray]]:
        for number, vector in rows:
            try:
                yield number, index.normal(vector)
            except ValueError as error:
                log.warning("the stored embedding of passage %d is left out: %s", number, error)

    index.add(fitting())


def locked(folder: Path) -> FileLock:
    """The lock of a service's folder; it ends with the process.

    Raises:
        UserError: another service runs in this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder}: another service runs here; end it, or start this one in another folder") from None
    return lock


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to this address, not yet listening.

    Raises:
        UserError: the address is in use, or is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP by name: asyncio sends small packets at once only on such sockets.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Connections inherit it, whatever the event loop is. Otherwise the second part of a reply waits for the
    # acknowledgement of the first, 40 ms on a connection that is kept open (Nagle's algorithm).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, TypeError) as error:  # TypeError for a name that cannot be encoded, as one with an empty part
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "not the name of a host"
        raise UserError(f"--host, --port: must be free and of this machine, got {host}:{port} ({reason})") from None
    return listener


async def again(what: str, work: Callable[[], Awaitable[None]], first_s: float = 1.0, most_s: float = 60.0) -> None:
    """Do `work`; after a failure, log it and retry, with a delay that doubles each time."""
    wait_s = first_s
    while True:
        try:
            return await work()
        except (RefusedError, ExpiredError, FailedError, WriterFullError) as error:
            log.warning("%s failed (%s); it is done again in %.0f s", what, error, wait_s)
        except Exception:  # nobody waits for this task: what ends it would be seen by nobody
            log.exception("%s failed; it is done again in %.0f s", what, wait_s)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, most_s)


async def embed_left(service: Service, every_s: float = LEFT_S) -> None:
    """Embed, every `every_s`, the passages that were stored while the model refused them or failed."""
    while True:
        await asyncio.sleep(every_s)
        await service.embed_missing()


class Server:
    """One service from start to end.

    Raises:
        UserError: by the constructor, which then leaves nothing open.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        url_of(settings.database, settings.folder)  # a wrong one fails before models are loaded
        self._lock = locked(settings.folder)
        with contextlib.ExitStack() as failing:
            failing.callback(self._lock.release)
            self._open(settings, failing)
            failing.pop_all()

    def _open(self, settings: ServiceSettings, failing: contextlib.ExitStack) -> None:
        """`failing` takes what is to be closed where the rest fails."""
        limits = Limits(slo_s=settings.slo_ms / 1e3, max_batch=settings.max_batch)
        archive, self._writer = open_archive(settings)  # one that cannot be opened fails before models are loaded
        failing.callback(self._writer.close)
        fleets = load_fleets(settings, limits)
        failing.callback(close_fleets, fleets)
        if EMBEDDING_TASK in fleets:
            model, size = embedder_identity(fleets[EMBEDDING_TASK], settings)
        elif settings.workers == "process":
            fleets[EMBEDDING_TASK], model, size = embedding_processes(limits)
        else:
            embed = PackagedEmbedder()
            model, size = embed.digest, embed.size
            fleets[EMBEDDING_TASK] = embedding_fleet(embed, limits)
        self.index = Index(settings.folder / "embeddings.f32", size)
        fill_index(self.index, archive.embeddings(model))
        self.service = Service(archive, self.index, model, fleets)
        self.ready = asyncio.Event()

    async def prepare(self) -> None:
        """Fill an empty store with the embedded passages, and embed passages that have no embedding."""
        archive = self.service.archive
        if self.settings.seed and not await asyncio.to_thread(archive.passages, 0, 1):
            await asyncio.wrap_future(archive.add_passages(seeds()))
        count = await self.service.embed_missing()
        log.info("%d passages embedded, %d can be found", count, len(self.index))
        self.ready.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Prepare while serving; at the end answer the waiting requests and store the answers."""
        tasks = [asyncio.create_task(again("preparing the passages", self.prepare))]
        tasks.append(asyncio.create_task(again("embedding passages", partial(embed_left, self.service))))
        tasks.append(asyncio.create_task(again("storing switches", SwitchLog(self.service).watch)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # in reverse order, and each whatever becomes of another
            closing.callback(self._lock.release)
            closing.callback(self._writer.close)
            closing.callback(self.service.close)


def run(settings: ServiceSettings) -> int:
    """Serve until SIGTERM or Ctrl-C, then answer the waiting requests; returns the exit code."""
    import uvicorn

    from search.serve.app import create_app
    from search.serve.web_runtime import event_loop, http_protocol

    bound_to = bound(settings.host, settings.port)  # a port in use fails before models are loaded
    server = Server(settings)
    guarding = Guarding(rate=settings.rate, burst=2 * settings.rate, keys=settings.keys, local=settings.local)
    app = create_app(server.service, guarding, server.ready)

    config = uvicorn.Config(
        app,
        http=http_protocol(),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-For would choose the client whose rate is counted
        lifespan="off",
        timeout_graceful_shutdown=15,
        timeout_keep_alive=15,
    )
    web = uvicorn.Server(config)
    # uvicorn raises a signal again when it has ended. Only its own handler lets the rest end in order then.
    for end in (signal.SIGTERM, signal.SIGINT):
        signal.signal(end, web.handle_exit)
    # A full collection would walk through all objects of the libraries and models, and hold the interpreter meanwhile.
    gc.collect()
    gc.freeze()

    async def serve() -> None:
        async with server.running():
            closing = SilentConnections(web.server_state.connections)
            watching = asyncio.create_task(again("closing silent connections", closing.watch))
            await web.serve([bound_to])
            watching.cancel()

    with asyncio.Runner(loop_factory=event_loop) as runner:
        runner.run(serve())
    return 0
