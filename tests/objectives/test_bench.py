"""The loop that times, on a clock of its own."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import numpy as np
import pytest
from fakes import BATCH, Machine

from objectives.bench import STEADY, Bench, TimedCall


def bench(machine: Machine, ms: float, first_ms: float = 0.0, load_s: float = 0.0) -> Bench:
    return Bench(machine.model(ms, first_ms, load_s), clock=machine.clock)


def test_loading_the_first_call_and_the_others_are_timed_apart() -> None:
    tested = bench(Machine(), ms=10, first_ms=500, load_s=3)
    assert tested.info()["first_call_ms"] is None
    assert tested.block([BATCH], 0.095, 1) == pytest.approx([10] * 10)
    info = tested.info()
    assert info["prepare_s"] == pytest.approx(3)
    assert info["first_call_ms"] == pytest.approx(510)


@pytest.mark.parametrize(
    ("ms", "seconds", "minimum", "calls"), [(10, 0.095, 1, 10), (40, 0.095, 1, 3), (400, 0.095, 2, 2)]
)
def test_a_block_lasts_its_time_and_has_its_minimum_of_calls(
    ms: float, seconds: float, minimum: int, calls: int
) -> None:
    assert bench(Machine(), ms).block([BATCH], seconds, minimum) == pytest.approx([ms] * calls)


def test_blocks_go_round_the_inputs_and_on_where_the_last_ended() -> None:
    machine, order = Machine(), []

    def opened() -> TimedCall:
        def predict(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            machine.now += 0.01
            order.append(int(batch["input_ids"][0, 0]))
            return {}

        return predict

    tested = Bench(opened, clock=machine.clock)
    inputs = [{"input_ids": np.full((1, 1), i)} for i in range(3)]
    tested.block(inputs, 0.039, 1)
    tested.block(inputs, 0.039, 1)
    assert order == [0, *(0, 1, 2, 0), 1, *(1, 2, 0, 1)]  # the one before each block is not counted


def test_warming_up_ends_as_soon_as_speed_is_steady() -> None:
    warmth = bench(Machine(), ms=1).warm([BATCH], 10)
    assert warmth["drift"] == pytest.approx(0)
    assert warmth["seconds"] == pytest.approx(2, rel=0.01)  # the two windows it takes to compare


def test_warming_up_goes_on_while_speed_drifts_but_is_bounded() -> None:
    warmth = bench(Machine(drift=0.05), ms=1).warm([BATCH], 10)
    assert warmth["drift"] is not None
    assert warmth["drift"] > STEADY
    assert 10 <= warmth["seconds"] < 11.1


def test_a_model_too_slow_for_two_windows_has_no_known_drift() -> None:
    assert bench(Machine(), ms=2000).warm([BATCH], 1)["drift"] is None


def test_every_shape_is_called_before_the_warm_up_is_timed() -> None:
    machine = Machine()
    shapes = [{"input_ids": np.ones((1, length), dtype=np.int64)} for length in (4, 8, 4)]
    bench(machine, ms=1000).warm(shapes, 0)
    assert machine.now == pytest.approx(2)


def test_the_collector_is_off_while_timing_and_on_again_even_after_a_failure() -> None:
    states = []

    def opened() -> TimedCall:
        def predict(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            states.append(gc.isenabled())
            if len(states) == 3:
                raise ArithmeticError
            return {}

        return predict

    with pytest.raises(ArithmeticError):
        Bench(opened).block([BATCH], 0, 5)
    assert states == [True, False, False]
    assert gc.isenabled()


def test_predict_answers_every_batch_in_order() -> None:
    outputs = Bench(lambda: lambda batch: {"twice": batch["x"] * 2}).predict([{"x": np.array([i])} for i in range(3)])
    assert [int(out["twice"][0]) for out in outputs] == [0, 2, 4]


def test_inputs_of_several_shapes_come_equally_often_in_every_block() -> None:
    machine, lengths = Machine(), []

    def opened() -> TimedCall:
        def predict(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            machine.now += 0.01 * batch["input_ids"].shape[1]
            lengths.append(batch["input_ids"].shape[1])
            return {}

        return predict

    tested = Bench(opened, clock=machine.clock)
    inputs = [{"input_ids": np.ones((1, length), dtype=np.int64)} for length in (1, 2, 3)]
    for seconds in (0.005, 0.065, 0.03):  # one call fits, all and one more, two
        times = tested.block(inputs, seconds, 1)
        assert times[:3] == pytest.approx([10, 20, 30]) and len(times) % 3 == 0
    assert len(times) == 3
