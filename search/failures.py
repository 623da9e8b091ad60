"""What an exception means: a candidate's failure, a passing shortage, or an error of this program."""

from __future__ import annotations

import errno
import gc
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from objectives.process import RemoteDied, RemoteError, RemoteTimeout, raised_in
from spaces.errors import Infeasible

log = logging.getLogger(__name__)
Made = TypeVar("Made")

PACKAGES = tuple(Path(__file__).parents[1] / name for name in ("search", "spaces", "objectives"))
#: What only a mistake in code raises.
PROGRAMMING = (TypeError, AttributeError, NameError, AssertionError, KeyError, IndexError)
#: What building and measuring a candidate may raise in the search's own process. (EOFError: no process could be
#: started.)
OF_A_CANDIDATE = (Infeasible, RemoteDied, RemoteTimeout, RemoteError, MemoryError, OSError, EOFError, ArithmeticError)
#: Out of memory, in the words of those that raise it without a type of its own.
SHORTAGE = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "bad allocation",
)


def is_ours(error: BaseException) -> bool:
    """Whether a mistake in this program's own code raised `error`, here or in a worker."""
    if not isinstance(error, PROGRAMMING):
        return False
    where = raised_in(error)
    if where is None:
        frames = traceback.extract_tb(error.__traceback__)
        where = frames[-1].filename if frames else ""
    return any(Path(where).is_relative_to(package) for package in PACKAGES)


def of_the_candidate(error: Exception) -> bool:
    """Whether `error`, raised while a candidate was built or measured, is the candidate's failure.

    All that its own process raises is, but for mistakes in our code. In the search's own process only a few kinds of
    exceptions are: any other is an error of this program.
    """
    if raised_in(error) is not None:
        return not is_ours(error)
    # A KeyError or an IndexError is a mistake; a plain LookupError says that a measurement is not there.
    return isinstance(error, OF_A_CANDIDATE) or type(error) is LookupError


def is_transient(error: BaseException) -> bool:
    """Whether the same work may well succeed a minute later: memory was short, or a process was lost."""
    if isinstance(error, RemoteDied | MemoryError | ConnectionError | EOFError):
        return True
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN):
        return True
    short = type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in SHORTAGE)
    return short and isinstance(error, RuntimeError | Infeasible)


def once_more(work: Callable[[], Made], what: str, may: Callable[[], bool] = lambda: True) -> Made:
    """`work()`, tried a second time after a transient failure as long as `may()`."""
    try:
        return work()
    except Exception as error:
        if not is_transient(error) or not may():
            raise
        log.warning("%s failed and is tried once more", what, exc_info=error)
    gc.collect()  # what the failure held is free only now
    return work()
