"""What makes coverage count in workers too: they are killed when they have answered, and would lose what they counted.

A worker saves it before each answer. It learns so from its fork server, which is told where it is started.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing import util
from multiprocessing.connection import Connection
from typing import Any

SERVER = "from multiprocessing.forkserver import main"
#: Run before a fork server's own code: this module, loaded from its file.
FIRST = f"import runpy; runpy.run_path({__file__!r})['save_before_answers'](); "


def is_on() -> bool:
    """Whether coverage counts here, and in the processes that are started from here."""
    return "COVERAGE_PROCESS_CONFIG" in os.environ


def save_before_answers() -> None:
    """In a fork server: let its workers save what was counted whenever they answer."""
    from coverage import Coverage

    send = Connection.send

    def save_and_send(connection: Connection, answer: Any) -> None:
        counted = Coverage.current()
        if counted is not None and answer[0] != "progress":
            counted.save()
        send(connection, answer)

    Connection.send = save_and_send  # type: ignore[method-assign]


def count_in_workers() -> None:
    """In a program: its fork servers, from now on, are told to."""
    start = util.spawnv_passfds

    def spawn(path: str, arguments: Sequence[str], passed: Sequence[int]) -> int:
        *before, code = arguments
        return start(path, [*before, FIRST + code if code.startswith(SERVER) else code], passed)

    util.spawnv_passfds = spawn
