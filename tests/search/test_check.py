"""A latency of now against that of a record, clock against clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from objectives.measurement import Measurement
from search.best_config import BestConfig
from search.check import held_against
from search.front import LATENCY


def timed(ms: float, **conditions: object) -> Measurement:
    return Measurement(LATENCY, "ms", "lower", ms, (0.9 * ms, 1.1 * ms), 100, conditions)


def record(quick: Measurement, *final: Measurement) -> BestConfig:
    return cast(BestConfig, SimpleNamespace(measurements={LATENCY: quick}, final={m.objective: m for m in final}))


@pytest.mark.parametrize(("ms", "inside"), [(4.0, True), (4.3, True), (3.7, True), (2.0, False), (4.5, False)])
def test_a_record_is_compared_at_the_speed_that_the_machine_had_then(ms: float, inside: bool) -> None:
    # Counted as 2 ms, because the machine was half as fast as when the reference was measured.
    text, found = held_against(record(timed(9.0), timed(2.0, as_timed=4.0, reference_ms=10.0)), timed(ms))
    assert found == inside
    assert f"{ms:.2f} ms here, 4.00 ms in the record ({ms / 4:.2f}x" in text and "3.60 to 4.40" in text


def test_without_a_final_timing_the_quick_one_counts_as_it_is() -> None:
    text, found = held_against(record(timed(2.0)), timed(2.1, noisy="a busy machine"))
    assert found and "2.00 ms in the record (1.05x, inside" in text and text.endswith("; noisy: a busy machine")
