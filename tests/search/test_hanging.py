"""When a call counts as hung: by the objective, the variant's own times, and what was measured at the start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Unpack

import numpy as np
import pytest
from services import variant

from search.serve.generator import Generator, Piece, Sampling
from search.serve.hanging import COMPILING, LEAST_S, PATIENCE, CallPace, HangLimit, warmed
from search.serve.model_process import ModelProcess
from search.serve.windows import WindowSettings

FAST, SLOW = variant(1, 1.0, 0.8), variant(2, 1000.0, 0.9)  # ms for a row of 32 tokens


def hanging(one: Any, slo_s: float = 0.2) -> HangLimit:
    return HangLimit(one, slo_s, WindowSettings(512).length)


def limit(hang: HangLimit, *texts: str) -> float:
    return hang.limit_s(hang.call_s(texts))


def test_the_limit_is_the_largest_of_a_stall_the_objective_and_the_variants_own_time() -> None:
    assert limit(hanging(FAST), "a") == LEAST_S
    assert limit(hanging(FAST, slo_s=7.0), "a") == 7.0
    row = "a" * 124  # 32 tokens
    assert limit(hanging(SLOW), row) == pytest.approx(PATIENCE * SLOW.tail * 1.0)
    assert limit(hanging(SLOW), row, row) == pytest.approx(PATIENCE * SLOW.tail * SLOW.seconds(2))


def test_a_slower_machine_and_a_runtime_that_compiles_for_each_shape_have_more_time() -> None:
    hang = hanging(SLOW)
    usual = limit(hang, "a" * 124)
    hang.paced(CallPace(rows=1, tokens=32, seconds=3.0, cold_s=2.0))
    assert limit(hang, "a" * 124) == pytest.approx(3 * usual + COMPILING * 2.0)
    for _ in range(200):
        hang.learn(1.0, 0.5)
    assert hang.slowness == pytest.approx(1.0, abs=1e-3)
    hang.learn(1.0, 5.0 + COMPILING * 2.0)  # at once, so that the next call like it is none that hangs
    assert hang.slowness == 5.0


def test_a_call_that_compiles_for_a_new_shape_is_no_slower_machine() -> None:
    hang = hanging(SLOW)
    hang.paced(CallPace(rows=1, tokens=32, seconds=1.0, cold_s=2.0))
    hang.learn(1.0, 1.0 + 2.0)
    assert hang.slowness == 1.0


def test_a_stall_hardly_changes_when_calls_count_as_hung() -> None:
    """It is 1,900 times the predicted time."""
    hang = hanging(FAST)
    for _ in range(2):
        hang.learn(0.001, 1.9)
        assert limit(hang, "a") == LEAST_S


def test_what_was_measured_at_the_start_is_taken_as_a_whole() -> None:
    hang = hanging(FAST)
    hang.paced(CallPace(rows=1, tokens=32, seconds=0.02, cold_s=0.0))
    assert hang.slowness == pytest.approx(20.0)


def test_the_first_piece_has_time_for_the_prompt_and_later_ones_have_none() -> None:
    hang = HangLimit(SLOW, 0.0, WindowSettings(2048).length)
    assert hang.piece_s("a" * 4000) == SLOW.seconds(1, 1 + 1001 // 8) > 3 * hang.piece_s()
    assert hang.piece_s([{"role": "user", "content": "a" * 4000}]) >= hang.piece_s("a" * 4000)
    assert hang.piece_s("a") == hang.piece_s()


class Compiling(SimpleNamespace):
    """A model that compiles for each new shape."""

    def made_up(self, rows: int, tokens: int) -> tuple[int, int]:
        return rows, tokens

    def output(self, shape: tuple[int, int]) -> np.ndarray:
        if shape not in self.shapes:
            time.sleep(0.05)
        self.shapes.append(shape)
        return np.zeros(shape)


def test_the_pace_of_a_model_is_that_of_its_second_call() -> None:
    record = SimpleNamespace(config={"workload": {"batch": 4, "length": 16}})
    model: Any = Compiling(shapes=[], record=record)
    pace = warmed(model)
    assert pace is not None and (pace.rows, pace.tokens) == (4, 16)
    assert pace.seconds < 0.03 < pace.cold_s


class Cold(Generator):
    """A language model whose first call compiles."""

    def __init__(self) -> None:
        self.calls, self._predict = 0, lambda batch: {}  # it prepares itself for no length

    def pieces(self, prompt: Any, **sampling: Unpack[Sampling]) -> Iterator[Piece]:
        self.calls += 1
        for number in range(sampling["max_new_tokens"]):
            yield Piece("a", 1, number + 1)


def test_a_process_makes_the_first_call_of_its_model_before_it_is_ready(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = Cold()
    monkeypatch.setattr("search.serve.pipeline.load", lambda *_: model)
    ModelProcess(tmp_path, "cpu", 0.0, None)
    assert model.calls == 1
