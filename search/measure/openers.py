"""Openers of a model's process: one that is open already, or one that opens on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from objectives.process import Remote

Opened = Callable[[], AbstractContextManager[Remote]]  # opens the model's process


def held(bench: Remote) -> Opened:
    """An opener of a process that is already open; it stays open."""
    return lambda: nullcontext(bench)


@contextmanager
def at_first_use(opened: Opened) -> Iterator[Opened]:
    """A process that is opened on first use and stays open until the end of the block."""
    with ExitStack() as stack:
        benches: list[Remote] = []

        def once() -> AbstractContextManager[Remote]:
            if not benches:
                benches.append(stack.enter_context(opened()))
            return nullcontext(benches[0])

        yield once
