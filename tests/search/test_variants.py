"""What the service knows of the members of a front."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.serve.variants import (
    BATCH_GAIN,
    FIXED_SHARE,
    P99_DEVIATIONS,
    ServiceTimes,
    Variant,
    embedding_variant,
    from_front,
    hull,
    loadable,
    useful_batch,
)

FRONT = Path(__file__).parents[2] / "benchmarks" / "results" / "2026-11-27-default-run" / "front.json"


def variant(number: int, ms: float, loss: float, memory_mb: float = 100.0) -> Variant:
    return Variant(number, 1 - loss / 100, loss, ((1, ms / 1e3),), 32, 1.5, memory_mb)


def front_of(values: dict[str, float], length: int | str, batch: int = 1, **conditions: float) -> dict[str, Any]:
    """A front.json of one member, as far as the service reads it."""
    measurements = {name: {"value": value, "conditions": conditions} for name, value in values.items()}
    return {
        "metric": "accuracy",
        "workload": {"batch": batch, "length": length},
        "members": [{"number": 3, "measurements": measurements}],
    }


def test_a_stored_front_gives_its_members() -> None:
    front = json.loads(FRONT.read_text())
    variants = from_front(front)
    assert [v.number for v in variants] == [member["number"] for member in front["members"]]
    for v, member in zip(variants, front["members"], strict=True):
        measured = member["measurements"]
        assert v.quality == measured["accuracy"]["value"] and v.loss == measured["quality_loss"]["value"]
        assert v.seconds(1) == pytest.approx(measured["latency_p50_ms"]["value"] / 1e3)
        assert v.tail == measured["latency_p99_ms"]["value"] / measured["latency_p50_ms"]["value"]


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        ({"latency_p50_ms": 0.0}, "a time of trial 3 must be finite and above 0 ms, got 0"),
        ({"latency_p50_ms/b8": math.nan}, "a time of trial 3 must be finite and above 0 ms, got nan"),
        ({"accuracy": math.inf}, "accuracy of trial 3 must be finite, got inf"),
        ({"peak_memory_mb": math.nan}, "peak_memory_mb of trial 3 must be finite, got nan"),
    ],
)
def test_an_edited_front_whose_numbers_are_no_times_is_refused(edit: dict[str, float], error: str) -> None:
    with pytest.raises(ValueError, match=f"^{error}$"):
        from_front(front_of({"latency_p50_ms": 1.0, "accuracy": 0.9, **edit}, length=32))


def test_measured_batches_come_before_the_linear_model() -> None:
    values = {
        "latency_p50_ms": 1.0,
        "latency_p50_ms/b8": 4.0,
        "latency_p50_ms/b32": 12.0,
        "latency_p50_ms/b8-l128": 99.0,
        "accuracy": 0.9,
        "latency_p50_ms/cuda-b32": 0.1,
    }
    (one,) = from_front(front_of(values, length=32))
    assert one.points == ((1, 0.001), (8, 0.004), (32, 0.012))
    assert [one.seconds(b) for b in (1, 8, 20, 32)] == pytest.approx([0.001, 0.004, 0.008, 0.012])
    assert one.seconds(64) == pytest.approx(0.012 + 32 * 0.008 / 24)


def test_rows_that_were_timed_in_the_data_s_lengths_are_as_long_as_the_record_says() -> None:
    values = {"latency_p50_ms": 9.0, "accuracy": 0.9}
    (of_windows,) = from_front(front_of(values, length="data", tokens=231.4))
    assert of_windows.length == 231 and of_windows.seconds(1, 231) == pytest.approx(0.009)
    (of_batches,) = from_front(front_of(values, length="data", batch=4, tokens=128.0))
    assert of_batches.length == 32 and of_batches.seconds(4, 32) == pytest.approx(0.009)


def test_one_measured_batch_gives_a_line_and_tokens_count() -> None:
    one = variant(0, 1.0, 0.0)
    assert one.seconds(1) == pytest.approx(1e-3)
    assert one.seconds(10) == pytest.approx(1e-3 * (FIXED_SHARE + 10 * (1 - FIXED_SHARE)))
    assert one.seconds(4, 64) == pytest.approx(one.seconds(8, 32))


def linear(fixed_ms: float, row_ms: float) -> Variant:
    return Variant(0, 0.9, 1.0, ((1, (fixed_ms + row_ms) / 1e3), (8, (fixed_ms + 8 * row_ms) / 1e3)), 32)


def test_a_larger_batch_than_the_useful_one_hardly_saves_time_and_a_smaller_one_loses_some() -> None:
    random = np.random.default_rng(0)
    for fixed, row, most, length in zip(
        random.uniform(0, 10, 50),
        random.uniform(0.1, 10, 50),
        random.integers(1, 40, 50).tolist(),
        random.choice([16, 32, 128], 50).tolist(),
        strict=True,
    ):
        one = linear(fixed, row)
        size = useful_batch(one, length, most)
        row_s = [one.seconds(rows, length) / rows for rows in range(1, most + 1)]
        assert 1 <= size <= most and row_s[size - 1] <= (1 + BATCH_GAIN) * min(row_s)
        assert all(seconds > (1 + BATCH_GAIN) * min(row_s) for seconds in row_s[: size - 1])


def test_where_batching_gains_nothing_the_useful_batch_is_one_row() -> None:
    assert useful_batch(linear(0.0, 10.0), 32, 32) == 1
    slower_together = Variant(0, 0.9, 1.0, ((1, 0.01), (8, 0.1)), 32)
    assert useful_batch(slower_together, 32, 32) == 1
    # (3 + 7 b) / b is within 5 % of that of 32 from 7 rows on.
    assert useful_batch(linear(3.0, 7.0), 32, 32) == 7 and useful_batch(linear(3.0, 7.0), 32, 4) == 3
    # A row of eight times the tokens computes eight times as long, so that the fixed part hardly counts.
    assert useful_batch(linear(3.0, 7.0), 256, 32) == 2


def test_the_hull_is_concave_and_no_variant_beats_it() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        some = [variant(i, ms, loss) for i, (ms, loss) in enumerate(random.uniform(0.1, 10, (8, 2)))]
        corners = hull(some, 8)
        fastest, best = corners[0], corners[-1]
        assert fastest.seconds(1) == min(v.seconds(1) for v in some) and best.loss == min(v.loss for v in some)
        for v in some:  # no mixture of two corners beats a corner, and none is beaten by a variant
            for low, high in pairwise(corners):
                share = (v.row_s(8) - low.row_s(8)) / (high.row_s(8) - low.row_s(8))
                if 0 <= share <= 1:
                    assert v.loss >= low.loss + share * (high.loss - low.loss) - 1e-9


def test_loaded_variants_keep_to_the_memory_and_hold_both_ends() -> None:
    variants = from_front(json.loads(FRONT.read_text()))
    for budget in (0, 80, 200, 300, 400, 1000):
        chosen = loadable(variants, budget)
        assert len(chosen) == 1 or sum(v.memory_mb for v in chosen) <= budget
        assert chosen[0].number == 14
    assert [v.number for v in loadable(variants, count=2)] == [14, 5]
    assert set(loadable(variants)) == set(variants) and loadable(()) == ()


def test_what_does_not_fit_is_not_loaded_though_it_is_the_fastest_or_the_most_accurate() -> None:
    some = (variant(0, 1.0, 5.0, 500.0), variant(1, 2.0, 3.0, 100.0), variant(2, 4.0, 0.0, 300.0))
    assert [v.number for v in loadable(some, 450)] == [1, 2] and [v.number for v in loadable(some, 200)] == [1]
    assert [v.number for v in loadable(some, 50)] == [0]
    assert [embedding_variant(some, budget).number for budget in (50, 100, 299, 300, math.inf)] == [1, 1, 1, 2, 2]


def test_times_follow_what_is_seen() -> None:
    slow, fast = variant(0, 4.0, 0.0), variant(1, 1.0, 5.0)
    random, times = np.random.default_rng(0), ServiceTimes()
    for _ in range(400):  # the machine is half as fast as the one measured, with noise of a tenth
        times.observe(slow, 4, 32, 2 * slow.seconds(4, 32) * math.exp(random.normal() * 0.1))
    assert times.expected_s(slow, 4, 32) == pytest.approx(2 * slow.seconds(4, 32), rel=0.1)
    assert times.safe_s(slow, 4, 32) == pytest.approx(2 * slow.seconds(4, 32) * math.exp(P99_DEVIATIONS * 0.1), rel=0.2)
    # A variant that has not served is known to run on the same machine.
    assert 1.3 < times.expected_s(fast, 4, 32) / fast.seconds(4, 32) < 2.1


def test_a_stall_is_no_new_speed() -> None:
    one, times = variant(0, 1.0, 0.0), ServiceTimes()
    for _ in range(100):
        times.observe(one, 1, 32, one.seconds(1))
    times.observe(one, 1, 32, 10.0)
    assert times.expected_s(one, 1, 32) < 1.2 * one.seconds(1)
