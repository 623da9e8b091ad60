"""Values of options at the ends of what they may be."""

from __future__ import annotations

import math

import pytest
import typer

from search.cli.options import number_option, port


@pytest.mark.parametrize(("least", "text", "value"), [(0, "0", 0.0), (0, "1e-3", 0.001), (-math.inf, "-3.5", -3.5)])
def test_a_number_may_be_the_least_one(least: float, text: str, value: float) -> None:
    assert number_option(least)(text) == value


@pytest.mark.parametrize("text", ["-1e-9", "nan", "inf", "-inf", "1,5", ""])
def test_a_number_below_the_least_or_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"must be a number of 0 or more, got {text}$"):
        number_option(0)(text)


@pytest.mark.parametrize("text", ["1e10", "1e308"])
def test_a_number_that_no_clock_and_no_integer_can_hold_is_refused(text: str) -> None:
    assert number_option(0)("1e9") == 1e9
    with pytest.raises(typer.BadParameter, match=rf"must be at most 1e\+09, got {text}$"):
        number_option(0)(text)


@pytest.mark.parametrize("text", ["nan", "inf", "fast"])
def test_a_number_without_a_bound_is_finite(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"must be a number, got {text}$"):
        number_option()(text)


def test_ports_are_those_of_sixteen_bits() -> None:
    assert [port(value) for value in ("1", "65535", 5000)] == [1, 65535, 5000]
    for value in ("0", "65536", "-1", "80.5", "http"):
        with pytest.raises(typer.BadParameter, match=f"must be a whole number from 1 to 65535, got {value}$"):
            port(value)
