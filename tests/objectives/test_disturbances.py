"""What disturbs a timing is noticed: the attempt is repeated, and what stays is marked noisy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from fakes import BATCH, FakeSide, Machine, others
from timed import measure, sides

from objectives import latency
from objectives.bench import TimedCall
from objectives.latency import QUICK


@pytest.mark.parametrize(
    ("shares", "share", "noisy", "retried"),
    [
        ([0.0], 0.0, "", 0),
        ([0.3, 0.0], 0.0, "", 1),
        ([0.3, 0.1, 0.2], 0.1, "other processes used 10% of the CPUs", 2),
        ([0.1, 0.2, 0.3, 0.0], 0.1, "other processes used 10% of the CPUs", 2),
    ],
)
def test_a_disturbed_attempt_is_repeated_a_few_times_and_the_quietest_is_kept(
    shares: list[float], share: float, noisy: str, retried: int
) -> None:
    machine, protocol = Machine(), replace(QUICK, attempts=3)
    speedup = latency.measure(*sides(machine, 5, 10), [BATCH], protocol, 0, {}, others(machine, shares))["speedup"]
    assert speedup.conditions["others_cpu_share"] == pytest.approx(share, abs=1e-3)
    assert speedup.conditions["noisy"] == noisy
    assert len(speedup.conditions["retried_for"]) == retried
    assert all("other processes used" in reason for reason in speedup.conditions["retried_for"])


def test_a_model_with_bimodal_times_marks_the_measurement_noisy() -> None:
    machine = Machine()
    opened = machine.model(5)

    def alternating() -> TimedCall:
        predict, calls = opened(), itertools.count()

        def called(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            machine.now += 0.002 if next(calls) % 3 == 0 else 0.0
            return predict(batch)

        return called

    figures = latency.measure(FakeSide(machine, 1, alternating), None, [BATCH], QUICK, 0, {}, machine.read)
    assert "bimodal times: 5 ms, and 7 ms" in figures["latency_p50_ms"].conditions["noisy"]


def test_inputs_of_several_lengths_do_not_make_times_bimodal() -> None:
    machine = Machine()
    opened = machine.model(5)

    def by_length() -> TimedCall:
        predict = opened()

        def called(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            machine.now += 0.005 * (batch["input_ids"].shape[1] > 4)
            return predict(batch)

        return called

    inputs = [BATCH, {"input_ids": np.ones((2, 9), dtype=np.int64)}]
    figures = latency.measure(FakeSide(machine, 1, by_length), None, inputs, QUICK, 0, {}, machine.read)
    assert "bimodal" not in figures["latency_p50_ms"].conditions["noisy"]
    assert figures["latency_p50_ms"].conditions["retried_for"] == []


def test_a_median_that_scatters_is_marked_but_not_timed_again() -> None:
    conditions = measure(Machine(noise=1.0), 10, 10)["latency_p50_ms"].conditions
    assert conditions["noisy"]
    assert conditions["retried_for"] == []
