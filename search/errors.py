"""User errors, reported in one or two lines: where, the rule, the given value, the nearest valid name."""

from __future__ import annotations

import difflib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

#: Turns a dotted key into where the user wrote it: "data.text" -> "config.yaml: data.text".
Where = Callable[[str], str]


class UserError(Exception):
    """The input is wrong. `str(error)` is what stderr shows; the program exits with 2 and no traceback."""


#: A full disk, a quota, a limit on file size: what writing raises then, and the words in which libraries pass it on.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: (SQLite calls a write that was cut short a "disk I/O error".)
FULL_WORDS = (*map(os.strerror, FULL_DISK), "database or disk is full", "disk I/O error")


def disk_is_full(error: BaseException) -> bool:
    """Whether `error`, or what caused it, is that nothing more can be written."""
    for link in causes(error):
        # An exception that came from another process left its causes there, and brings them as notes.
        texts = (str(link), *getattr(link, "__notes__", ()))
        if getattr(link, "errno", None) in FULL_DISK or any(words in text for words in FULL_WORDS for text in texts):
            return True
    return False


#: A file or folder that this user may not write or read.
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def forbidden(error: OSError) -> str:
    """What cannot be written or read, and why, where that is what `error` says; else ""."""
    if error.errno not in FORBIDDEN or not isinstance(error.filename, str | os.PathLike):
        return ""
    path = Path(error.filename)
    shown = path.parent if path.name.startswith(".") else path  # of a temporary name: its folder
    return f"{shown}: must be what this user can write, got {error.strerror}"


#: SQLite's messages for a database that another program holds locked.
LOCKED_WORDS = ("database is locked", "database table is locked", "database schema is locked")


def database_is_locked(error: BaseException) -> bool:
    """Whether `error`, or a cause of it, is a database that another program holds locked."""
    return any(words in str(link) for link in causes(error) for words in LOCKED_WORDS)


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, what it came from, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def one_line(error: BaseException, limit: int = 200) -> str:
    """The message of an exception in one line; for a database's without the statement and its values."""
    text = " ".join(str(error).partition("[SQL:")[0].split())
    return text[:limit] or type(error).__name__


def show(value: Any) -> str:
    """`value` as in a YAML file (null, true, "text"), truncated to a line; a path is never truncated."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 or isinstance(value, Path) else f"{text[:77]}..."


def listed(names: Iterable[Any], limit: int = 20) -> str:
    """Names for a sentence, the first `limit` of them."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:limit]) + (f", ... ({len(texts)} in all)" if len(texts) > limit else "")


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name most like `name`, or None when nothing is close."""
    by_lower = {v.lower(): v for v in valid}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def wrong(where: str, rule: str, value: Any) -> UserError:
    """The error that `value` at `where` breaks `rule`: "`where`: must be `rule`, got `value`"."""
    return UserError(f"{where}: must be {rule}, got {show(value)}")


def unknown(where: str, what: str, name: Any, valid: Iterable[str]) -> UserError:
    """The error that `name` is not among the `valid` names of a `what`, with the nearest one."""
    names = list(valid)
    close = nearest(str(name), names)
    hint = f'; did you mean "{close}"?' if close else ""
    return UserError(f"{where}: unknown {what} {show(name)}{hint} (valid: {listed(names)})")
