"""The processes of a campaign: which are open together, opening them, asking one of them, and which failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from objectives import paired_timing
from objectives.paired_timing import Opener, Side


class Failures(dict[int, str]):
    """Why models failed, by key: the type and the first line of the exception."""

    def __init__(self, is_fault: Callable[[Exception], bool]) -> None:
        super().__init__()
        self._is_fault = is_fault

    def add(self, key: int, error: Exception) -> None:
        """Record the failure of model `key`; an error of the program is raised instead."""
        if self._is_fault(error):
            raise error
        self[key] = f"{type(error).__name__}: {error}".partition("\n")[0]


def groups_of(needs_mb: Mapping[int, float], anchors: Sequence[int], available_mb: float) -> list[list[int]]:
    """Groups of models that fit into `available_mb` together; the `anchors` are in every group.

    First fit decreasing (Johnson, 1973): the largest models come first, each into the first group with room. A model
    that is too large for any group has one of its own, beside the anchors. `needs_mb` is each model's peak memory.
    """
    held = sum(needs_mb[key] for key in anchors)
    groups: list[list[int]] = []
    used: list[float] = []
    for key in sorted((key for key in needs_mb if key not in anchors), key=lambda key: -needs_mb[key]):
        group = next((i for i, total in enumerate(used) if total + needs_mb[key] <= available_mb), None)
        if group is None:
            groups.append([*anchors])
            used.append(held)
            group = len(groups) - 1
        groups[group].append(key)
        used[group] += needs_mb[key]
    return groups or [[*anchors]]


@contextmanager
def opened(openers: Mapping[int, Opener], at_once: int, failed: Failures) -> Iterator[dict[int, Side]]:
    """The processes by key, opened `at_once` at a time; a model that cannot be opened is recorded in `failed`."""
    with ExitStack() as stack:

        def enter(opener: Opener) -> Side:
            manager = opener()
            side = manager.__enter__()
            stack.push(manager)
            return side

        with ThreadPoolExecutor(at_once) as pool:
            opening = {key: pool.submit(enter, opener) for key, opener in openers.items()}
        for key, future in opening.items():
            if (error := future.exception()) is not None:
                if not isinstance(error, Exception):
                    raise error
                failed.add(key, error)
        yield {key: future.result() for key, future in opening.items() if future.exception() is None}


def asker(sides: Mapping[int, Side], failed: Failures, timeout_s: float) -> Callable[..., Any]:
    """ask(key, method, *arguments): the answer of that process within `timeout_s`, or None where the model failed.

    All other processes stay stopped meanwhile.
    """

    def ask(key: int, method: str, *arguments: Any) -> Any:
        if key in failed:
            return None
        try:
            with paired_timing.awake(sides[key]):
                return sides[key].call(method, *arguments, timeout_s=timeout_s)
        except Exception as error:  # whatever it is, it is about this model alone
            failed.add(key, error)
            return None

    return ask
