"""Several models open at once: opening takes longer than timing, and a machine has many cores to open them with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from objectives import clock
from objectives.paired_timing import Read
from objectives.process import Remote


def attempt(opening: Callable[[], Remote]) -> Remote | Exception:
    """The process, stopped until it is wanted; or why it did not open."""
    try:
        remote = opening()
    except Exception as error:
        return error
    remote.pause()
    return remote


@contextlib.contextmanager
def opened(openings: Sequence[Callable[[], Remote]]) -> Iterator[list[Remote | Exception]]:
    """All of them, opened at the same time, each stopped; they end with the context."""
    with ThreadPoolExecutor(max(1, len(openings))) as pool:
        remotes = list(pool.map(attempt, openings))
    try:
        yield remotes
    finally:
        for remote in remotes:
            if isinstance(remote, Remote):
                remote.close()


def read_beside(waiting: int, device: str) -> Read:
    """The machine's counters, without `waiting` processes of ours that hold the GPU and are stopped."""

    def read(pids: Sequence[int]) -> clock.Reading:
        reading = clock.read(pids, device=device)
        if reading.gpu is None:
            return reading
        return replace(reading, gpu=replace(reading.gpu, processes=max(0, reading.gpu.processes - waiting)))

    return read


def brief(error: BaseException) -> str:
    """The start of an error, on one line."""
    text = " ".join(str(error).split())
    return text[:160] if type(error).__name__ == "Infeasible" else f"{type(error).__name__}: {text}"[:160]
