"""An object that lives in a process of its own, and answers calls until it is closed.

Two runtimes in one process disturb each other, and a crash or an exhausted memory in one candidate must not
take the search with it: so whatever runs a model runs behind a `Remote`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import math
import multiprocessing
import os
import pickle
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import IO, Any, TypeVar

from objectives.fork_server import ServedProcess, Waiting
from objectives.process_output import SentFile, end_of

Progress = Callable[[str, float], None]
Failure = TypeVar("Failure", bound=BaseException)
#: The longest wait in one call of `poll`, which takes at most 2**31 milliseconds.
LONGEST_POLL_S = 86_400.0


class RemoteDied(RuntimeError):  # noqa: N818 - what happened to it
    """The process ended without an answer: killed (often for memory) or crashed."""

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode
        cause = f"killed by signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit {exitcode}"
        hint = "; out of memory is the usual reason" if exitcode == -signal.SIGKILL else ""
        super().__init__(f"its process died ({cause}{hint})")


class RemoteTimeout(TimeoutError):  # noqa: N818 - as TimeoutError is one
    """The process did not answer within its time limit and was killed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:.0f} s")


class RemoteError(RuntimeError):
    """An exception of the process that does not pickle; the message has its type, text and traceback."""


def raised_in(error: BaseException) -> str | None:
    """The file in which an exception of another process was raised; None for an exception of this process."""
    file = getattr(error, "raised_in", None)
    return file if isinstance(file, str) else None


class Remote:
    """`factory()` held in a process of its own; `call` runs one of its methods there.

    `factory` and all arguments and answers must pickle. Exceptions raised there are raised here with the same type.
    The end of what the process printed is added to them as a note.

    Args:
        timeout_s: seconds that `factory` may take; None: no limit.
        waiting: "passive" for a process that is not timed.
        limit_s: asked before each call for the seconds that it may take, beside the call's own limit.
        begun: called once the process exists, before `factory` ends there: another thread may `kill` it then.

    Raises:
        RemoteTimeout, RemoteDied: `factory` did not end in time, or its process ended.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        timeout_s: float | None = None,
        waiting: Waiting = "default",
        limit_s: Callable[[], float] | None = None,
        begun: Callable[[Remote], None] | None = None,
    ) -> None:
        self._limit_s = limit_s
        here, there = multiprocessing.get_context("forkserver").Pipe()
        self._connection: Connection = here
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this is
        weakref.finalize(self, self._output.close)
        self._process = ServedProcess(waiting, _serve, there, factory, SentFile(self._output))
        self._process.start()
        # A stopped process ignores the SIGTERM that the interpreter sends at exit, and would be waited for.
        self._end = weakref.finalize(self, _end, self._process, here)
        there.close()
        try:
            if begun is not None:
                begun(self)
            self._answer(timeout_s, None)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        pid = self._process.pid
        assert pid is not None
        return int(pid)

    @property
    def alive(self) -> bool:
        """Whether the process is there to be called."""
        return bool(self._end.alive) and self._process.is_alive()

    def call(
        self,
        method: str,
        *arguments: Any,
        timeout_s: float | None = None,
        progress: Progress | None = None,
        silence_s: Callable[[], float] | None = None,
    ) -> Any:
        """`getattr(object, method)(*arguments)` in the process; its exceptions are raised here.

        `progress` is called with the stage and the share that is done, 0 to 1, as the object reports them.
        `silence_s` is asked at the start, and after each report, for the seconds in which the next message must come.

        Raises:
            RemoteTimeout: no answer in `timeout_s` seconds, or no message in `silence_s()`; the process was killed.
            RemoteDied: the process ended.
        """
        if not self._end.alive:
            raise RemoteDied(self._process.exitcode)
        if self._limit_s is not None:
            most = self._limit_s()
            timeout_s = most if timeout_s is None else min(timeout_s, most)
        try:
            self._connection.send((method, arguments))
        except (BrokenPipeError, ConnectionResetError):
            raise self._with_output(self._died()) from None
        return self._answer(timeout_s, progress, silence_s)

    def pause(self) -> None:
        """Stop the process (SIGSTOP), so that its runtime's spinning threads do not disturb timings."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process after `pause` (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process alone: another thread's call that waits for it raises RemoteDied."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill the process, whatever it is doing. Closing twice is harmless."""
        self._end()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        # A dead one is reported by the next call; its id may already belong to somebody else.
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _answer(
        self, timeout_s: float | None, progress: Progress | None, silence_s: Callable[[], float] | None = None
    ) -> Any:
        try:
            kind, payload = self._receive(timeout_s, progress, silence_s)
        except BaseException as error:
            # Ctrl-C comes here too: an answer still on its way must not be taken for the next call's.
            self.close()
            self._with_output(error)
            raise
        if kind == "raise":
            raise self._with_output(payload)
        return payload

    def _with_output(self, error: Failure) -> Failure:
        """`error` with the end of what the process printed as a note."""
        text = end_of(self._output)
        if text:
            error.add_note(f"printed by its process:\n{text}")
        return error

    def _receive(
        self, timeout_s: float | None, progress: Progress | None, silence_s: Callable[[], float] | None
    ) -> tuple[str, Any]:
        whole = math.inf if timeout_s is None else timeout_s
        deadline = time.monotonic() + whole
        while True:
            left, silence = max(0.0, deadline - time.monotonic()), math.inf if silence_s is None else silence_s()
            wait = min(left, silence)
            if not self._connection.poll(min(wait, LONGEST_POLL_S)):
                if wait > LONGEST_POLL_S:
                    continue
                raise RemoteTimeout(whole if left <= silence else silence)
            try:
                kind, payload = self._connection.recv()
            except (EOFError, ConnectionResetError):
                raise self._died() from None
            if kind != "progress":
                return kind, payload
            if progress is not None:
                progress(*payload)

    def _died(self) -> RemoteDied:
        self._process.join(10)
        return RemoteDied(self._process.exitcode)


def _end(process: multiprocessing.process.BaseProcess, connection: Connection) -> None:
    connection.close()
    if process.is_alive():
        process.kill()
    process.join(10)


def _sendable(error: BaseException) -> BaseException:
    """`error` with the remote traceback as a note, or a RemoteError that says the same."""
    text = "".join(traceback.format_exception(error))
    frames = traceback.extract_tb(error.__traceback__)
    where = frames[-1].filename if frames else ""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RemoteError(f"{type(error).__name__}: {error}\n{text}")
    else:
        error.add_note(f"in its own process:\n{text}")
    error.raised_in = where  # type: ignore[attr-defined]
    return error


def _end_with_the_program(connection: Connection) -> None:
    """End this process when the other end of `connection` is gone, also when it is at work or stopped.

    A thread waits for the hang-up. Linux is asked to send SIGCONT with it (and, harmlessly, with messages),
    because a process that is stopped when the program is killed would otherwise never end.
    """
    hang_up = select.poll()
    hang_up.register(connection.fileno(), 0)

    def watch() -> None:
        hang_up.poll()
        os._exit(1)

    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may know no such thing
            fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGCONT)
            fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=watch, daemon=True).start()


def _serve(connection: Connection, factory: Callable[[], Any], output: SentFile) -> None:
    output.take_output()
    faulthandler.enable()  # a crash below Python says where it was
    _end_with_the_program(connection)
    # Ctrl-C reaches the whole process group; the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError, EOFError, ConnectionResetError):
        try:
            held = factory()
        except BaseException as error:
            connection.send(("raise", _sendable(error)))
            return
        connection.send(("ready", None))
        while True:
            method, arguments = connection.recv()
            try:
                # Progress goes through the connection, so an object asks for it by this attribute.
                if hasattr(held, "progress"):
                    held.progress = lambda stage, done: connection.send(("progress", (stage, done)))
                connection.send(("answer", getattr(held, method)(*arguments)))
            except (BrokenPipeError, EOFError, ConnectionResetError):
                raise
            except BaseException as error:
                connection.send(("raise", _sendable(error)))
