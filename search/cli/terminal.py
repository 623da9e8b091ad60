"""What several commands print."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from search.errors import database_is_locked, disk_is_full, forbidden, one_line

if TYPE_CHECKING:
    from rich.table import Table

    from search.front.front import Front
    from search.front.study_record import StudyRecord

TABLE_WIDTH = 160  # of a table that no terminal shows
LEAST_WIDTH = 80  # of one on a terminal: a narrower one breaks the lines, where columns of no width would show nothing


def say(lines: Iterable[str]) -> None:
    """Print each line as soon as it is available."""
    for line in lines:
        print(line)


def complain(line: str) -> None:
    """Print to standard error, apart from the output that programs read."""
    with suppress(BrokenPipeError):  # nobody reads it
        print(line, file=sys.stderr)


def failed(error: Exception) -> int:
    """Print why a command failed, unless the reader of its output has gone; returns the exit code."""
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return 1
    if isinstance(error, OSError) and (refused := forbidden(error)):
        complain(f"error: {refused}")
        return 2
    for line in failure(error):
        complain(line)
    return 1


def _nobody_reads() -> bool:
    """Whether the standard output is a pipe that nobody reads any more, as after `list | head`."""
    asked = select.poll()
    try:
        asked.register(sys.stdout.fileno(), 0)  # what is reported without being asked for: errors
    except (OSError, ValueError):  # it is no file
        return False
    return any(event & select.POLLERR for _, event in asked.poll(0))


def show_table(front: Front, study: StudyRecord) -> None:
    """Print the front's table in the width of the terminal."""
    from search.report.text import table

    print_table(table(front, study))


def print_table(rows: Table) -> None:
    """Print a table in the width of the terminal."""
    from rich.console import Console

    width = max(Console().width, LEAST_WIDTH) if sys.stdout.isatty() else TABLE_WIDTH
    Console(width=width).print(rows)


def say_unfinished(study: StudyRecord) -> None:
    if study.unfinished:
        complain(f"unfinished: {study.unfinished}; where there is no final timing yet, the quick one is shown")


def failure(error: Exception) -> tuple[str, ...]:
    """One or two lines on the cause of a command's failure."""
    from search.run_log import logged_in

    if disk_is_full(error):
        first = f"failed: nothing more can be written (is the disk full?): {one_line(error, 300)}"
        return first, "what is finished is kept; the same command goes on when there is space"
    if database_is_locked(error):
        first = "failed: another program holds a database of the results folder (optuna.db or mlflow.db)"
        return first, "what is finished is kept; the same command goes on when that program has let go of it"
    where = logged_in(error) or "--debug shows where"
    return (f"failed: {type(error).__name__}: {one_line(error, 600)} ({where})",)
