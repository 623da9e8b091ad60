"""Processes that answer for a model are opened when they are needed, and what they answer are numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest

from objectives.process import Remote
from search.measure.openers import at_first_use
from search.measure.outputs import finite_output


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


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_finite_numbers_are_counted_in_the_error(strange: float) -> None:
    whole = np.array([1.0, 2.0, 3.0])
    assert finite_output(whole, "validation") is whole
    with pytest.raises(ArithmeticError, match=r"^1 of 4 outputs on validation are infinite or no numbers$"):
        finite_output(np.append(whole, strange), "validation")
