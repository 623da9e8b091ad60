"""The floor: counted by hand on a small model, and against torch's own counter; what lies under it is a bug."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from objectives import roofline
from objectives.ceilings import BYTES, CALLS_PER_READING, LANES, SMALLEST, MeasuredCeilings, Meter
from objectives.generation_times import TPOT
from objectives.latency import P50
from objectives.roofline import Sizes, work

# Two blocks of hidden 4, heads * head size 4, neurons 8; a head of two classes.
BLOCK = ((4, 4), (4, 4), (4, 4), (4, 4), (4, 8), (8, 4))
SMALL = Sizes(token_matrices=BLOCK * 2, row_matrices=((4, 2),), attention=(4, 4), tables=(4, 4, 4))


class LatencyPredictor:
    """Ceilings of a device with these figures."""

    def __init__(self, peak: float, bandwidth: float) -> None:
        self._peak, self._bandwidth = peak, bandwidth

    def peak(self, precision: str) -> float:
        return self._peak

    def bandwidth(self, size: int) -> float:
        return self._bandwidth


def batch(*lengths: int) -> dict[str, np.ndarray]:
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return {"input_ids": mask, "attention_mask": mask}


def test_the_work_of_a_small_model_is_what_one_counts_by_hand() -> None:
    cost = work(SMALL, [3, 5], "fp32")
    weights_of_a_block = 4 * 16 + 2 * 32
    matrices = 2 * (3 + 5) * 2 * weights_of_a_block
    head = 2 * 2 * (4 * 2)
    attention = 2 * (4 * (3 * 3 + 5 * 5) * 4)  # scores and sums, 2 operations each
    assert cost.operations == matrices + head + attention
    assert cost.bytes == 4 * (2 * weights_of_a_block + 8 + 3 * 4)


def test_the_operations_are_those_that_torch_counts() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    length, hidden, heads = 7, 12, 3
    x = torch.randn(1, length, hidden)
    square, wide, back = (torch.randn(hidden, out) for out in (hidden, 30, hidden))
    back = torch.randn(30, hidden)
    with FlopCounterMode(display=False) as counter:
        q, k, v = ((x @ square).view(1, length, heads, -1).transpose(1, 2) for _ in range(3))
        mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v
        (mixed.transpose(1, 2).reshape(1, length, hidden) @ square) @ wide @ back
    sizes = Sizes(((hidden, hidden),) * 4 + ((hidden, 30), (30, hidden)), (), (hidden,), ())
    assert work(sizes, [length], "fp32").operations == counter.get_total_flops()


@pytest.mark.parametrize("precision", ["bf16", "int8", "int8-static", "int4", "fp8"])
def test_fewer_bits_read_fewer_bytes_and_compute_as_much(precision: str) -> None:
    full, less = work(SMALL, [3], "fp32"), work(SMALL, [3], precision)
    assert less.bytes / full.bytes == BYTES[precision] / 4
    assert less.operations == full.operations


def test_rows_of_an_embedding_are_read_and_not_the_table() -> None:
    without = replace(SMALL, tables=())
    assert work(SMALL, [9], "fp32").bytes - work(without, [9], "fp32").bytes == 4 * 3 * 4


def test_weights_are_read_once_a_call_whatever_the_batch() -> None:
    assert work(SMALL, [3] * 32, "fp32").bytes == work(SMALL, [3], "fp32").bytes
    assert work(SMALL, [3] * 32, "fp32").operations == 32 * work(SMALL, [3], "fp32").operations


@pytest.mark.parametrize(("peak", "bandwidth", "bound"), [(1e3, 1e12, "compute"), (1e12, 1e3, "memory")])
def test_the_floor_is_set_by_the_lower_ceiling(peak: float, bandwidth: float, bound: str) -> None:
    floor = roofline.floor(SMALL, [batch(3)], "fp32", LatencyPredictor(peak, bandwidth))
    one = work(SMALL, [3], "fp32")
    assert floor.bound == bound
    assert floor.ms == pytest.approx(1e3 * max(one.operations / peak, one.bytes / bandwidth))


def test_padding_is_not_work_and_the_typical_call_counts() -> None:
    floor = roofline.floor(SMALL, [batch(2), batch(4), batch(9)], "fp32", LatencyPredictor(1e3, 1e12))
    assert floor.work == work(SMALL, [4], "fp32")
    assert roofline.floor(SMALL, [batch(2, 9)], "fp32", LatencyPredictor(1e3, 1e12)).work == work(SMALL, [2, 9], "fp32")


@pytest.mark.parametrize(("factor", "bug"), [(2.0, False), (1.0, False), (0.97, False), (0.9, True), (0.1, True)])
def test_a_time_under_the_floor_is_reported_as_a_bug_on_every_timing(factor: float, bug: bool) -> None:
    floor = roofline.floor(SMALL, [batch(3)], "fp32", LatencyPredictor(1e3, 1e12))
    median = P50.measured(floor.ms * factor, (floor.ms * factor * 0.9, floor.ms * factor * 1.1), 100, {"noisy": "load"})
    figures = roofline.held_against(floor, {P50.name: median, "other": median}, P50.name)
    for name in (P50.name, "other"):
        assert figures[name].conditions["noisy"].startswith("load")
        assert ("a bug" in figures[name].conditions["noisy"]) is bug
    assert bool(figures["floor_ms"].conditions["under_floor"]) is bug
    fraction = figures["roofline_fraction"]
    assert fraction.value == pytest.approx(1 / factor)
    assert fraction.interval == pytest.approx((1 / factor / 1.1, 1 / factor / 0.9))


def test_a_precision_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="got int3"):
        work(SMALL, [3], "int3")


class Counting(MeasuredCeilings):
    """Ceilings that are made up, and counted."""

    def __init__(self, *values: float) -> None:
        super().__init__("cpu", 1)
        self.asked: list[tuple[str, object]] = []
        self._values = list(values)

    def measure(self, method: str, argument: object) -> float:
        self.asked.append((method, argument))
        return self._values.pop(0)


def test_a_ceiling_is_measured_once_and_the_better_of_two_looks_counts() -> None:
    ceilings = Counting(5.0, 7.0, 6.0, 6.0)
    assert [ceilings.peak("fp32"), ceilings.peak("fp32"), ceilings.bandwidth(5_000_000)] == [5.0, 5.0, 7.0]
    assert ceilings.bandwidth(4_200_000) == 7.0  # the same power of two
    ceilings.measure_again()
    assert (ceilings.peak("fp32"), ceilings.bandwidth(5_000_000)) == (6.0, 7.0)
    assert ceilings.asked == [("peak", "fp32"), ("bandwidth", 1 << 22), ("peak", "fp32"), ("bandwidth", 1 << 22)]


def test_the_ceilings_of_this_machine_are_positive_and_ordered() -> None:
    meter = Meter("cpu", 1)
    fp32, int8 = meter.peak("fp32"), meter.peak("int8")
    assert fp32 > 1e8
    assert int8 >= LANES["int8"] * fp32 * 0.3  # measured twice, on a machine that may be busy
    assert meter.bandwidth(SMALLEST) > 1e8


def test_waiting_for_a_gpu_is_shared_by_the_calls_between_two_looks_at_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wait of 10 us after every read of 1 us would make a device eleven times too slow, and its floor too high."""
    import torch

    now = [0.0]

    def spend(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: spend(10e-6))
    meter = Meter("cuda", 1, lambda: now[0])
    assert meter.seconds_per_call(lambda: spend(1e-6)) == pytest.approx(1e-6 + 10e-6 / CALLS_PER_READING["cuda"])


def test_a_ceiling_for_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="got int3"):
        Meter("cpu", 1).peak("int3")


def test_a_generation_reads_all_weights_again_for_each_token_after_the_first() -> None:
    ceilings = LatencyPredictor(peak=1e30, bandwidth=1e6)  # nothing but memory takes time
    prompt = roofline.floor(SMALL, [batch(6)], "fp32", ceilings)
    call = roofline.floor(SMALL, [{**batch(6), "new_tokens": np.array([5])}], "fp32", ceilings)
    read_ms = 4 * (SMALL.weights + 3 * 4) / 1e6 * 1e3
    assert call.step_ms == pytest.approx(read_ms)
    assert call.ms == pytest.approx(prompt.ms + 4 * read_ms)
    assert call.work.bytes == pytest.approx(5 * prompt.work.bytes)
    timed = {P50.name: P50.counted(10 * call.ms, {}), "tpot_ms": TPOT.counted(4 * read_ms, {})}
    assert roofline.held_against(call, timed, P50.name)["decode_roofline_fraction"].value == pytest.approx(0.25)
    assert "decode_roofline_fraction" not in roofline.held_against(prompt, timed, P50.name)


def test_a_step_reads_the_cache_of_every_row() -> None:
    sizes = replace(SMALL, cache_bytes=100.0)
    weights = roofline.step_work(SMALL, 6, 3, "fp32")
    whole = roofline.step_work(sizes, 6, 3, "fp32")
    assert whole.bytes == weights.bytes + 3 * 100 and whole.operations == weights.operations
    assert roofline.work(sizes, [6] * 3, "fp32") == roofline.work(SMALL, [6] * 3, "fp32"), "a prompt fills it"
