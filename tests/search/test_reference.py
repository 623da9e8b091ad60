"""What latencies are counted by: measured once, and by nothing else the same."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.reference import References

ABOUT = {"architecture": "bert", "weights": {"a": (2, 3)}}
CONDITIONS = {"device": "cpu", "batch": 2, "length": 8, "fingerprint": "f"}
INPUTS = [{"input_ids": np.ones((2, 8), dtype=np.int64)}]


def never() -> float:
    raise AssertionError("measured again")


def test_it_is_measured_once_whoever_asks(tmp_path: Path) -> None:
    first = References(tmp_path, ABOUT)
    assert first.ms(INPUTS, CONDITIONS, lambda: 12.5) == 12.5
    assert first.ms(INPUTS, CONDITIONS, never) == 12.5
    assert References(tmp_path, ABOUT).ms(INPUTS, CONDITIONS, never) == 12.5
    other_ids = [{"input_ids": np.zeros((2, 8), dtype=np.int64)}]
    assert References(tmp_path, ABOUT).ms(other_ids, CONDITIONS, never) == 12.5


@pytest.mark.parametrize(
    ("about", "inputs", "conditions"),
    [
        ({**ABOUT, "weights": {"a": (2, 4)}}, INPUTS, CONDITIONS),
        (ABOUT, [{"input_ids": np.ones((2, 9), dtype=np.int64)}], CONDITIONS),
        (ABOUT, INPUTS, {**CONDITIONS, "fingerprint": "another machine"}),
        (ABOUT, INPUTS, {**CONDITIONS, "threads": 1}),
    ],
)
def test_another_model_workload_or_machine_has_its_own(
    about: dict[str, Any], inputs: list[dict[str, np.ndarray]], conditions: dict[str, Any], tmp_path: Path
) -> None:
    References(tmp_path, ABOUT).ms(INPUTS, CONDITIONS, lambda: 12.5)
    assert References(tmp_path, about).ms(inputs, conditions, lambda: 3.0) == 3.0
    assert References(tmp_path, ABOUT).ms(INPUTS, CONDITIONS, never) == 12.5


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"ms": "12"}', '{"ms": -1.0}', '{"ms": NaN}', "\x00"])
def test_a_damaged_file_is_made_again(content: str, tmp_path: Path) -> None:
    References(tmp_path, ABOUT).ms(INPUTS, CONDITIONS, lambda: 12.5)
    [path] = tmp_path.iterdir()
    path.write_text(content)
    assert References(tmp_path, ABOUT).ms(INPUTS, CONDITIONS, lambda: 7.0) == 7.0
    assert json.loads(path.read_text())["ms"] == 7.0


def test_of_two_that_begin_together_the_second_takes_what_the_first_measured(tmp_path: Path) -> None:
    begun, answers = threading.Event(), [12.5, 99.0]

    def slowly() -> float:
        begun.set()
        time.sleep(0.3)
        return answers.pop(0)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(References(tmp_path, ABOUT).ms, INPUTS, CONDITIONS, slowly)
        assert begun.wait(10)
        second = pool.submit(References(tmp_path, ABOUT).ms, INPUTS, CONDITIONS, slowly)
        assert first.result() == second.result() == 12.5


def test_nothing_is_kept_of_what_could_not_be_measured(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError):
        References(tmp_path, ABOUT).ms(INPUTS, CONDITIONS, lambda: 1 / 0)
    assert list(tmp_path.iterdir()) == []
