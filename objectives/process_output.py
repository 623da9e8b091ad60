"""The output of another process: a file that it prints to, whose end is added to its exceptions."""

from __future__ import annotations

import io
import os
import sys
from multiprocessing import reduction
from typing import IO, Any

#: Bytes of the end of a process's output that are added to its exception.
OUTPUT_BYTES = 20_000


class SentFile:
    """An open file on its way to a process that is being started."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file: IO[bytes] | None = file
        self._duplicate: Any = None

    def __getstate__(self) -> Any:
        assert self._file is not None
        return reduction.DupFd(self._file.fileno())

    def __setstate__(self, duplicate: Any) -> None:
        self._file, self._duplicate = None, duplicate

    def take_output(self) -> None:
        """Let all that this process prints, in Python or below it, go to the file."""
        number = self._duplicate.detach()
        for stream in (1, 2):
            os.dup2(number, stream)
        os.close(number)
        if isinstance(sys.stdout, io.TextIOWrapper):  # by lines, so that a crash loses none
            sys.stdout.reconfigure(line_buffering=True)


def end_of(file: IO[bytes]) -> str:
    """The last `OUTPUT_BYTES` of a file."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), OUTPUT_BYTES, max(0, size - OUTPUT_BYTES)).decode(errors="replace").strip()
