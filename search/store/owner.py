"""Which process a temporary file or a lease belongs to, on whatever host or in whatever container that process runs.

A process number alone does not identify a process in other containers (each has its own process 1) or on other hosts.
So a name holds the machine (host name, boot and namespace of process numbers), the number, and when the process
started. Whether a process of this machine is alive is asked of the kernel. Another machine's processes cannot be asked:
they count as alive until nothing touched their file for `SILENT_S`, and `beat` touches this process's files every
minute.

By hand: a lock of the package filelock has one holder, while many processes use one store at once.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import platform
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BEAT_S = 60.0
SILENT_S = 3600.0

_OWNER = r"(?P<machine>[0-9a-f]{12})-(?P<pid>\d+)-(?P<started>\d+)"
_TEMPORARY = re.compile(rf"\.(?P<name>.+)\.{_OWNER}-\d+\.(?P<kind>[a-z]+)")
_count = itertools.count()  # tells the temporary names of one process apart, and so those of its threads


@dataclass(frozen=True)
class Owner:
    """One process."""

    machine: str
    pid: int
    started: int  # in clock ticks since the machine's boot: tells a process from a later one of the same number

    def __str__(self) -> str:
        return f"{self.machine}-{self.pid}-{self.started}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        match = re.fullmatch(_OWNER, text)
        return None if match is None else cls(match["machine"], int(match["pid"]), int(match["started"]))

    def gone(self, path: Path, now: float) -> bool:
        """Whether this owner of `path` has ended; `now` is the time as the file system of `path` counts it."""
        if self.machine == machine_digest():
            return started_at(self.pid) != self.started
        return silent(path, now)


def silent(path: Path, now: float) -> bool:
    """Whether `path` was not touched for `SILENT_S`."""
    with suppress(FileNotFoundError):
        return now - path.lstat().st_mtime > SILENT_S
    return True


def this_process() -> Owner:
    """This process."""
    return Owner(machine_digest(), os.getpid(), started_at(os.getpid()) or 0)


@functools.cache
def machine_digest() -> str:
    """12 hex digits that differ between hosts, boots, and containers with process numbers of their own."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def started_at(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None where there is none, or it only waits to be reaped."""
    try:
        # "pid (name) state ...", and a name may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


# --- temporary names ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leftover:
    """Something under a temporary name whose owner has ended."""

    path: Path
    name: str  # what it was to be, or was
    kind: str


def temporary(path: Path, kind: str = "partial") -> Path:
    """A name beside `path` that only this thread uses, and only once."""
    return path.with_name(f".{path.name}.{this_process()}-{next(_count)}.{kind}")


def leftovers(folder: Path, name: str = "*") -> Iterator[Leftover]:
    """Leftovers of ended processes in `folder` under temporary names, for `name` where that is given."""
    candidates = [path for path in folder.glob(".*") if _TEMPORARY.fullmatch(path.name)] if folder.is_dir() else []
    now = now_in(folder) if candidates else 0.0
    for path in sorted(candidates):
        parts = _TEMPORARY.fullmatch(path.name)
        assert parts is not None
        owner = Owner(parts["machine"], int(parts["pid"]), int(parts["started"]))
        if name in ("*", parts["name"]) and owner.gone(path, now):
            yield Leftover(path, parts["name"], parts["kind"])


def now_in(folder: Path) -> float:
    """The time as the file system of `folder` counts it: that of a server may differ from this machine's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # nothing can be written there
        return time.time()


# --- signs of life ------------------------------------------------------------------------------------------

_beating: dict[Path, int] = {}
_lock = threading.Lock()
_thread: list[threading.Thread] = []


def beat(path: Path) -> None:
    """Touch `path` every minute from now on, until `rest`, so that other machines see that its owner lives."""
    with _lock:
        _beating[path] = _beating.get(path, 0) + 1
        if not (_thread and _thread[0].is_alive()):  # a fork has none
            _thread[:] = [threading.Thread(target=_beat_on, name="signs of life", daemon=True)]
            _thread[0].start()


def rest(path: Path) -> None:
    """Stop touching `path`."""
    with _lock:
        left = _beating.pop(path, 0) - 1
        if left > 0:
            _beating[path] = left


@contextmanager
def beating(path: Path) -> Iterator[None]:
    beat(path)
    try:
        yield
    finally:
        rest(path)


def touch_all() -> None:
    """Touch all paths that were given to `beat`."""
    with _lock:
        paths = list(_beating)
    for path in paths:
        with suppress(OSError):  # it was removed, or moved to its place
            os.utime(path)


def _beat_on() -> None:
    while True:
        time.sleep(BEAT_S)
        touch_all()
