"""Classification of exceptions: a candidate's failure, a transient shortage, or a mistake in this program."""

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
Returned = TypeVar("Returned")

OWN_PACKAGES = tuple(Path(__file__).parents[1] / name for name in ("search", "spaces", "objectives"))
#: Exceptions that only a mistake in code raises.
PROGRAMMING = (TypeError, AttributeError, NameError, AssertionError, KeyError, IndexError)
#: Exceptions of building and measuring a candidate in the search's own process. (EOFError: no process started.)
OF_A_CANDIDATE = (Infeasible, RemoteDied, RemoteTimeout, RemoteError, MemoryError, OSError, EOFError, ArithmeticError)
#: Messages of out-of-memory errors that have no type of their own.
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
    return any(Path(where).is_relative_to(package) for package in OWN_PACKAGES)


def of_the_candidate(error: Exception) -> bool:
    """Whether `error`, raised while a candidate was built or measured, is the candidate's failure.

    Every exception of the candidate's own process is, unless the mistake is in our code. In the search's process only
    the types in `OF_A_CANDIDATE` are.
    """
    if raised_in(error) is not None:
        return not is_ours(error)
    # KeyError and IndexError are mistakes; a plain LookupError says that a measurement is missing.
    return isinstance(error, OF_A_CANDIDATE) or type(error) is LookupError


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed on a second try: memory was short, or a process was lost."""
    if isinstance(error, RemoteDied | MemoryError | ConnectionError | EOFError):
        return True
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN):
        return True
    short = type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in SHORTAGE)
    return short and isinstance(error, RuntimeError | Infeasible)


def retry_once(work: Callable[[], Returned], what: str, may_retry: Callable[[], bool] = lambda: True) -> Returned:
    """`work()`, tried a second time after a transient failure if `may_retry()`."""
    try:
        return work()
    except Exception as error:
        if not is_transient(error) or not may_retry():
            raise
        log.warning("%s failed and is tried once more", what, exc_info=error)
    gc.collect()  # frees the memory that the failed try held
    return work()
