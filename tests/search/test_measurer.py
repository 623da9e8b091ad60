"""Processes that answer for a model are opened when they are needed, and no earlier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from objectives.process import Remote
from search.measure.openers import at_first_use


class Openings:
    """Counts how many are open, and how many there were."""

    def __init__(self) -> None:
        self.open = self.made = 0

    @contextmanager
    def __call__(self) -> Iterator[Remote]:
        self.open, self.made = self.open + 1, self.made + 1
        try:
            yield cast(Any, object())
        finally:
            self.open -= 1


def test_a_process_that_nobody_asks_for_is_not_opened() -> None:
    openings = Openings()
    with at_first_use(openings):
        pass
    assert openings.made == 0


def test_one_process_answers_all_and_ends_with_the_last() -> None:
    openings = Openings()
    with at_first_use(openings) as opened:
        with opened() as first:
            pass
        assert openings.open == 1
        with opened() as second:
            assert second is first
    assert (openings.made, openings.open) == (1, 0)
