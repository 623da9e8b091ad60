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

from objectives.latency import P50
from objectives.measurement import Measurement
from search.measure.reference import ATTEMPTS, References
from search.store.locks import LOCK

ABOUT = {"architecture": "bert", "weights": {"a": (2, 3)}}
CONDITIONS = {"device": "cpu", "batch": 2, "length": 8, "fingerprint": "f"}
INPUTS = [{"input_ids": np.ones((2, 8), dtype=np.int64)}]


def timed(ms: float, noisy: str = "", others: float = 0.0) -> Measurement:
    conditions = {"noisy": noisy, "others_cpu_share": others}
    return P50.measured(ms, (0.9 * ms, 1.1 * ms), 100, conditions)


def never() -> Measurement:
    raise AssertionError("measured again")


def test_it_is_measured_once_whoever_asks_and_its_interval_is_kept(tmp_path: Path) -> None:
    first = References(tmp_path, ABOUT)
    assert first.of(INPUTS, CONDITIONS, lambda: timed(12.5)).estimate == (12.5, 0.9 * 12.5, 1.1 * 12.5)
    assert first.of(INPUTS, CONDITIONS, never).ms == 12.5
    assert References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, never) == first.of(INPUTS, CONDITIONS, never)
    other_ids = [{"input_ids": np.zeros((2, 8), dtype=np.int64)}]
    assert References(tmp_path, ABOUT).of(other_ids, CONDITIONS, never).ms == 12.5


def test_a_noisy_one_is_measured_again_by_the_next_run_and_the_quiet_one_stays(tmp_path: Path) -> None:
    first = References(tmp_path, ABOUT)
    assert first.of(INPUTS, CONDITIONS, lambda: timed(20.0, "a busy machine", 0.4)).noisy == "a busy machine"
    assert first.of(INPUTS, CONDITIONS, never).ms == 20.0, "one run counts by one reference"
    again = References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, lambda: timed(12.5))
    assert (again.ms, again.noisy, again.attempts) == (12.5, "", 2)
    assert References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, never).ms == 12.5


def test_on_a_machine_that_is_never_quiet_the_quietest_is_kept_and_it_is_tried_a_few_times(tmp_path: Path) -> None:
    shares, times = [0.4, 0.2, 0.3, 0.5], []
    for others in shares:
        times.append(References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, lambda: timed(100 * others, "busy", others)))  # noqa: B023
    assert [round(one.ms) for one in times] == [40, 20, 20, 20]
    assert len(shares) == ATTEMPTS
    assert References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, never).ms == pytest.approx(20)


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
    References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, lambda: timed(12.5))
    assert References(tmp_path, about).of(inputs, conditions, lambda: timed(3.0)).ms == 3.0
    assert References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, never).ms == 12.5


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"ms": "12"}', '{"ms": -1.0}', '{"ms": NaN}', '{"ms": 12.5, "conditions": {}}', "\x00"],
)
def test_a_damaged_file_is_made_again(content: str, tmp_path: Path) -> None:
    References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, lambda: timed(12.5))
    [path] = tmp_path.glob("*.json")
    path.write_text(content)
    assert References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, lambda: timed(7.0)).ms == 7.0
    assert json.loads(path.read_text())["ms"] == 7.0


def test_of_two_that_begin_together_the_second_takes_what_the_first_measured(tmp_path: Path) -> None:
    begun, answers = threading.Event(), [12.5, 99.0]

    def slowly() -> Measurement:
        begun.set()
        time.sleep(0.3)
        return timed(answers.pop(0))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(References(tmp_path, ABOUT).of, INPUTS, CONDITIONS, slowly)
        assert begun.wait(10)
        second = pool.submit(References(tmp_path, ABOUT).of, INPUTS, CONDITIONS, slowly)
        assert first.result().ms == second.result().ms == 12.5


def test_nothing_is_kept_of_what_could_not_be_measured(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError):
        References(tmp_path, ABOUT).of(INPUTS, CONDITIONS, lambda: timed(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
