"""Times of generated tokens: to the first, of each later one, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from fakes import FakeSide, Machine

from objectives import campaign, campaign_measurements, generation_times, latency
from objectives.estimate import Estimate
from objectives.paired_timing import Opener, Protocol
from objectives.reference_speed import at_speed_of
from objectives.workload import TIMED_NEW_TOKENS

INPUTS = [{"input_ids": np.ones((2, 8), dtype=np.int64), TIMED_NEW_TOKENS: np.full(2, 5)}]
PROTOCOL = Protocol(block_s=0.3, blocks=8, warm_s=0.1)


class Generating:
    """Its first token takes `first` ms, each later one `step` ms."""

    def __init__(self, machine: Machine, first: float, step: float) -> None:
        self._machine, self._first, self._step = machine, first, step
        self.token_times: list[float] = []

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.token_times = []
        for token in range(int(batch[TIMED_NEW_TOKENS][0])):
            self._machine.now += (self._step if token else self._first) / 1e3
            self.token_times.append(self._machine.now)
        return {}


def side(machine: Machine, pid: int, first: float, step: float) -> FakeSide:
    opened: Callable[[], Generating] = lambda: Generating(machine, first, step)  # noqa: E731
    return FakeSide(machine, pid, opened)


def test_the_first_token_and_those_after_it_are_measured_apart() -> None:
    machine = Machine()
    timed = latency.measure(
        side(machine, 1, 20, 4), side(machine, 2, 40, 8), INPUTS, PROTOCOL, 0, {"device": "cpu"}, machine.read
    )
    assert timed["ttft_ms"].value == pytest.approx(20)
    assert timed["tpot_ms"].value == pytest.approx(4)
    assert timed["tpot_p90_ms"].value == pytest.approx(4)
    assert timed["tokens_per_s"].value == pytest.approx(2 * 5 / 0.036)  # two rows of five tokens in 36 ms
    assert timed["latency_p50_ms"].value == pytest.approx(36)
    assert replace(timed["generate_ms"], objective="latency_p50_ms") == timed["latency_p50_ms"]
    assert timed["speedup"].value == pytest.approx(2)


def test_at_another_speed_of_the_machine_all_times_are_scaled_alike() -> None:
    machine = Machine()
    timed = latency.measure(
        side(machine, 1, 20, 4), side(machine, 2, 40, 8), INPUTS, PROTOCOL, 0, {"device": "cpu"}, machine.read
    )
    counted = at_speed_of(Estimate(144.0, 144.0, 144.0), timed)  # the baseline takes 72 ms here
    assert counted["latency_p50_ms"].value == pytest.approx(72)
    assert replace(counted["generate_ms"], objective="latency_p50_ms") == counted["latency_p50_ms"]
    assert counted["ttft_ms"].value == pytest.approx(40)
    assert counted["tpot_ms"].value == pytest.approx(8)
    assert counted["tokens_per_s"].value == pytest.approx(2 * 5 / 0.072)


def test_a_campaign_has_the_times_of_each_model_s_tokens() -> None:
    machine = Machine()
    openers: dict[int, Opener] = {
        key: lambda key=key: nullcontext(side(machine, key + 1, 20 * key + 20, 4 * key + 4))  # type: ignore[misc]
        for key in (0, 1)
    }
    plan = campaign.CampaignPlan(block_s=0.2, warm_s=0.1)
    measured = campaign.run([openers], (0,), INPUTS, plan, 0, machine.read)
    figures = campaign_measurements.measurements(measured, 1, 2, 0, {"device": "cpu"})
    assert figures["ttft_ms"].value == pytest.approx(40)
    assert replace(figures["generate_ms"], objective="latency_p50_ms") == figures["latency_p50_ms"]
    assert figures["tpot_ms"].value == pytest.approx(8)


def test_a_model_that_generates_nothing_has_none_of_them() -> None:
    machine = Machine()
    sides = [FakeSide(machine, pid, machine.model(10)) for pid in (1, 2)]
    inputs = [{"input_ids": np.ones((2, 8), dtype=np.int64)}]
    timed = latency.measure(*sides, inputs, PROTOCOL, 0, {"device": "cpu"}, machine.read)
    assert not timed.keys() & set(generation_times.GENERATION_NAMES)


def test_one_token_has_no_time_of_later_ones() -> None:
    machine = Machine()
    inputs = [{"input_ids": np.ones((1, 8), dtype=np.int64), TIMED_NEW_TOKENS: np.ones(1, dtype=np.int64)}]
    timed = latency.measure(side(machine, 1, 20, 4), None, inputs, PROTOCOL, 0, {"device": "cpu"}, machine.read)
    assert timed["ttft_ms"].value == pytest.approx(20)
    assert "tpot_ms" not in timed
