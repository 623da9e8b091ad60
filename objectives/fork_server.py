"""The fork servers that start worker processes, one for each way in which OpenMP's threads wait."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, popen_forkserver, reduction, spawn, util
from multiprocessing.context import set_spawning_popen
from types import FrameType
from typing import Any, Literal

from objectives.openmp_waiting import is_passive

#: Imported once by a fork server, so that a worker starts in milliseconds instead of seconds. Only imports:
#: no tensor is made before the fork, because thread pools and CUDA contexts do not survive it.
PRELOADED = ("torch", "safetensors.torch", "transformers.models.bert.modeling_bert")

#: How the threads of OpenMP wait for work. "default": as the user's environment says, by default spinning for a while;
#: timed models run so. "passive": asleep, so that they take no CPU time from other processes.
Waiting = Literal["default", "passive"]


@contextmanager
def ctrl_c_later() -> Iterator[None]:
    """A Ctrl-C that comes in the block takes effect at its end. (Only the main thread gets one.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])


class _Server(forkserver.ForkServer):
    """A fork server with its own environment, which `first` sets when it is imported before the libraries."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self._modules = [first, *PRELOADED]
        self.set_forkserver_preload(self._modules)

    def preload(self, names: Sequence[str]) -> None:
        """Import these modules too; without effect once the server runs."""
        self._modules += [name for name in names if name not in self._modules]
        self.set_forkserver_preload(self._modules)

    def ensure_running(self) -> None:
        # Ctrl-C is for the program alone. The server and its workers inherit that it is blocked, from their first
        # moment: later they would show a traceback of whatever they were importing.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


#: OpenMP reads its settings when it is loaded, so all workers of a server share them; each way of waiting has a server.
_SERVERS: Mapping[Waiting, _Server] = {
    "default": _Server("objectives.quiet_worker"),
    "passive": _Server("objectives.passive_worker"),
}


def preload(*names: str) -> None:
    """Let fork servers that start from now on import these modules, so that workers find them imported.

    The modules must make no tensor and start no thread, as those of `PRELOADED`.
    """
    for server in _SERVERS.values():
        server.preload(names)


def _server_for(waiting: Waiting) -> _Server:
    """The fork server whose workers wait in this way; the passive one for all where the user's OpenMP is passive."""
    return _SERVERS["passive" if is_passive() else waiting]


class _Popen(popen_forkserver.Popen):
    """The standard library's `Popen`, with a given fork server."""

    _fds: list[int]

    def __init__(self, process: multiprocessing.process.BaseProcess, server: _Server) -> None:
        self._server = server
        super().__init__(process)

    def _launch(self, process: multiprocessing.process.BaseProcess) -> None:
        buffer = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process.name), buffer)
            reduction.dump(process, buffer)
        finally:
            set_spawning_popen(None)
        with ctrl_c_later():  # a worker that reads half of this shows a traceback
            self.sentinel, writing = self._server.connect_to_new_process(self._fds)
            # A duplicate that stays open, so that the worker notices when this process is gone.
            held = (os.dup(writing), self.sentinel)
            self.finalizer = util.Finalize(self, util.close_fds, held)  # type: ignore[attr-defined]
            with open(writing, "wb", closefd=True) as pipe:
                pipe.write(buffer.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


class ServedProcess(multiprocessing.process.BaseProcess):
    """A process that runs `serve(*arguments)`. The fork server it comes from decides how its OpenMP threads wait."""

    _start_method = "forkserver"

    def __init__(self, waiting: Waiting, serve: Callable[..., None], *arguments: Any) -> None:
        super().__init__(target=serve, args=arguments, daemon=True)
        self._waiting = waiting

    @staticmethod
    def _Popen(process: ServedProcess) -> _Popen:  # noqa: N802 - its name in the standard library
        return _Popen(process, _server_for(process._waiting))
