"""A second batch size is timed where the record of a front has one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from search.serve.batch_times import TIMED, batched, timed_variant, with_batches
from search.serve.variants import Variant


def of(*points: tuple[int, float], length: int = 32) -> Variant:
    return Variant(3, 0.9, 1.0, points, length)


def test_the_ratio_of_two_sizes_is_measured_and_the_record_keeps_its_own_time() -> None:
    # This machine is twice as slow, and four rows take three times as long as one.
    took = {1: 0.02, 4: 0.06, 32: 0.48}.__getitem__
    assert dict(with_batches(of((1, 0.01)), 4, took).points) == pytest.approx({1: 0.01, 4: 0.03})
    assert dict(with_batches(of((4, 0.03)), 8, took).points) == pytest.approx({1: 0.01, 4: 0.03})
    assert dict(with_batches(of((32, 0.24)), 4, took).points) == pytest.approx({1: 0.01, 32: 0.24})


def test_a_record_of_two_sizes_is_taken_as_it_is() -> None:
    two = of((1, 0.01), (32, 0.2))
    assert with_batches(two, 4, {1: 1.0, 32: 1.0}.__getitem__) is two


def test_an_exported_model_is_timed_on_rows_as_long_as_the_record_s_or_on_full_windows(
    tmp_path: Path,
) -> None:
    shapes: list[tuple[int, ...]] = []

    def made_up(rows: int, tokens: int) -> tuple[int, int]:
        return rows, tokens

    def output(batch: tuple[int, int]) -> np.ndarray:
        shapes.append(batch)
        time.sleep(0.002)  # whatever the rows: a model that gains by batches
        return np.zeros(1)

    for task, length, tokens, most in (
        ("classification", 20, 20, 8),
        ("classification", 200, 64, 4),
        ("question-answering", 20, 64, 4),
    ):
        shapes.clear()
        record = SimpleNamespace(config={"data": {"max_length": 64}}, recipe=SimpleNamespace(task=task))
        model: Any = SimpleNamespace(record=record, folder=tmp_path, output=output, made_up=made_up)
        timed = batched(of((1, 0.01), length=length), model)
        assert set(shapes) == {(rows, tokens) for rows in (1, most)}
        assert [rows for rows, _ in timed.points] == [1, most] and timed.points[1][1] < 0.02


def test_a_model_without_a_record_is_timed_on_a_usual_row() -> None:
    calls: list[Sequence[Any]] = []
    timed = timed_variant(calls.append, "a row", 12)
    assert timed.length == 12 and tuple(rows for rows, _ in timed.points) == TIMED
    assert {len(rows) for rows in calls} == set(TIMED)
