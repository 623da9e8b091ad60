"""A stage in a process of its own: a crash, an exhausted memory or a time limit ends it, not the search."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from objectives.process import Progress, Remote


class _Stage:
    """Holds one function; the process sets `progress` before it is called."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.progress: Progress = lambda stage, done: None

    def run(self, arguments: tuple[Any, ...]) -> Any:
        return self.function(*arguments, progress=self.progress)


def run(
    function: Callable[..., Any],
    *arguments: Any,
    timeout_s: float | None = None,
    progress: Progress | None = None,
) -> Any:
    """`function(*arguments, progress=...)` in a fresh process that is not timed; its exceptions are raised here.

    Raises:
        objectives.process.RemoteTimeout, RemoteDied.
    """
    with Remote(partial(_Stage, function), timeout_s=timeout_s, waiting="passive") as remote:
        return remote.call("run", arguments, timeout_s=timeout_s, progress=progress)
