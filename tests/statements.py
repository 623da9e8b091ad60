"""The statements of an engine, before they are executed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Engine, event


@contextlib.contextmanager
def before_each(engine: Engine, see: Callable[[str], Any]) -> Iterator[None]:
    """Calls `see` with each statement, which is not executed where that raises."""

    def execute(_: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        see(statement.strip())

    event.listen(engine, "before_cursor_execute", execute)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", execute)
