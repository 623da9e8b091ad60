"""What marks a measurement as noisy, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from objectives import gpu, noise
from objectives.arrays import Floats
from objectives.clock import Reading
from objectives.estimate import Estimate

QUIET = Reading(at=0, cpus=2, everybody=0, processes=(0, 0))


def after(**changes: Any) -> Reading:
    return replace(QUIET, at=10, everybody=10, processes=(10, 0), **changes)


@pytest.mark.parametrize(
    ("later", "notes"),
    [
        (after(), []),
        (replace(after(), everybody=13), ["other processes used 15% of the CPUs"]),
        (replace(after(), everybody=13, steal=3), ["the hypervisor gave 15% of the CPUs to others"]),
        (after(held_back=1.0), ["the container's CPU quota held it back for 10% of the time"]),
    ],
)
def test_whoever_takes_time_is_named(later: Reading, notes: list[str]) -> None:
    assert noise.of_machine(QUIET, later) == notes


CAPPED = "the GPU was slowed by its power cap for 10% of the time"
IDLE = gpu.GpuState(clock_mhz=1980, max_clock_mhz=1980, throttled_ns=(0, 0), processes=2)


@pytest.mark.parametrize(
    ("state", "notes"),
    [
        (IDLE, []),
        (replace(IDLE, reasons=0x01), []),  # idle: no reason to doubt a time
        (replace(IDLE, throttled_ns=(10**9, 0)), [CAPPED]),
        (replace(IDLE, throttled_ns=(10**9, 0), reasons=0x04), [CAPPED]),  # said once
        (replace(IDLE, reasons=0x20, clock_mhz=900), ["the GPU was slowed by its temperature at 900 of 1980 MHz"]),
        (replace(IDLE, processes=3), ["3 processes computed on the GPU, 2 of them ours"]),
        (replace(IDLE, throttled_ns=(None, None)), []),
    ],
)  # fmt: skip
def test_a_gpu_that_is_slowed_or_shared_is_named(state: gpu.GpuState, notes: list[str]) -> None:
    assert noise.of_machine(replace(QUIET, gpu=IDLE), after(gpu=state)) == notes


def times(count: int, seed: int, slow_by: float, share: float, noise_level: float) -> Floats:
    generator = np.random.default_rng(seed)
    slow = slow_by * (generator.random(count) < share)
    return 10 * np.exp(noise_level * generator.standard_normal(count) + slow)


@pytest.mark.parametrize("count", [150, 1000])
def test_two_modes_are_told_with_their_shares(count: int) -> None:
    for seed in range(20):
        modes = noise.two_modes(times(count, seed, 0.3, 0.35, 0.02))
        assert modes is not None
        assert modes.fast_ms == pytest.approx(10, rel=0.03)
        assert modes.slow_ms == pytest.approx(10 * np.exp(0.3), rel=0.03)
        assert modes.slow_share == pytest.approx(0.35, abs=0.13)


@pytest.mark.parametrize(
    "drawn",
    [
        lambda g, n: 0.05 * g.standard_normal(n),
        lambda g, n: 0.2 * g.exponential(size=n),  # a long tail
        lambda g, n: 0.01 * g.standard_normal(n) + 0.5 * (g.random(n) < 0.04),  # a few slow calls
        lambda g, n: 0.02 * g.standard_normal(n) + np.linspace(0, 0.3, n),  # drift
        lambda g, n: np.round(0.01 * g.standard_normal(n), 2),  # a coarse clock
    ],
)
def test_one_speed_is_not_taken_for_two(drawn: Any) -> None:
    results = [noise.two_modes(10 * np.exp(drawn(np.random.default_rng(seed), 200))) for seed in range(100)]
    assert sum(modes is not None for modes in results) <= 3


def test_times_without_any_noise_have_one_speed() -> None:
    assert noise.two_modes(np.full(200, 5.0)) is None


def test_few_calls_say_nothing_of_speeds() -> None:
    assert noise.two_modes(np.array([1.0, 2.0] * (noise.FEWEST_CALLS // 2 - 1))) is None


def test_two_modes_are_said_with_the_side() -> None:
    blocks = [np.tile([5.0, 9.0], 20) for _ in range(16)]
    [note] = noise.of_calls("candidate", blocks)
    assert note == "the candidate has bimodal times: 5 ms, and 9 ms in 50% of its calls"


@pytest.mark.parametrize(
    ("interval", "notes"),
    [
        ((9.6, 10.4), []),
        ((9.0, 10.1), ["the median is known to 10% only"]),
        ((9.9, 12), ["the median is known to 20% only"]),
    ],
)
def test_a_median_with_a_wide_interval_is_said(interval: tuple[float, float], notes: list[str]) -> None:
    assert noise.of_estimate("median", Estimate(10, *interval)) == notes
