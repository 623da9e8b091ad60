"""Processes that `forking` starts: the server is begun with the first of them, and ends with the tests."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARK = "SEARCH_TEST_RUN"  # an environment variable that tells which run a process belongs to


def environment(**changes: str) -> dict[str, str]:
    """Of a command: this repository importable, the hub out of reach, the user's own MLflow server left alone."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", MARK: uuid.uuid4().hex}
    variables.pop("MLFLOW_TRACKING_URI", None)
    return {**variables, **changes}


def one_core() -> None:
    """Keep this process, and those it starts, on one core: threads of a tiny model only wait for each other.

    Ctrl-C is as on a terminal, also where the tests run in the background of a shell that ignores it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


class Server:
    """The process of `forking`, which is started with the first command and ends with the tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, request: Mapping[str, Any], out: int, err: int) -> Forked:
        """A command as `request` says, that prints to the files `out` and `err`."""
        with self._lock:
            if self._socket is None:
                self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with there:
                    self._process = subprocess.Popen(
                        [sys.executable, Path(__file__).with_name("forking.py"), str(there.fileno())],
                        env=environment(),
                        pass_fds=[there.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        preexec_fn=one_core,  # noqa: PLW1509
                        start_new_session=True,
                    )
            asking, there = socket.socketpair()
            with there:
                socket.send_fds(self._socket, [json.dumps(request).encode()], [out, err, there.fileno()])
        return Forked(asking)

    def end(self) -> None:
        """Let the server end, if it was started, and wait until it has."""
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait(30)
            self._socket = self._process = None


class Forked:
    """A process that the server forked: what tests use of subprocess.Popen."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers
        self._lines = answers.makefile()
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("python -m search", timeout)
            self.returncode = int(self._lines.readline())
            self._answers.close()
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


SERVER = Server()
