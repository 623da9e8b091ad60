"""The benchmarks' timing over fresh pairs of processes, on a machine whose noise is planted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import BATCH, FakeSide, Machine

from benchmarks import fresh_pairs


class Openings:
    """Fresh sides on one machine, and how many of them are open."""

    def __init__(self, machine: Machine, *ms: float) -> None:
        self.opened, self.open = 0, 0
        self._machine, self._ms = machine, ms

    @contextlib.contextmanager
    def __call__(self) -> Iterator[FakeSide]:
        self.opened, self.open = self.opened + 1, self.open + 1
        side = FakeSide(
            self._machine, id(self) + self.opened, self._machine.model(self._ms[self.opened % len(self._ms)])
        )
        yield side
        self.open -= 1
        side.pause()


def sessions(machine: Machine, candidates: Openings, baselines: Openings) -> Any:
    return fresh_pairs.timed(candidates, baselines, [BATCH], fresh_pairs.lasting(4), 0, machine.read)


def test_fresh_processes_of_both_sides_are_opened_for_each_pair_and_closed() -> None:
    machine = Machine()
    candidates, baselines = Openings(machine, 5), Openings(machine, 10)
    timed = sessions(machine, candidates, baselines)
    assert len(timed) == candidates.opened == baselines.opened == fresh_pairs.PAIRS
    assert (candidates.open, baselines.open) == (0, 0)
    assert fresh_pairs.ratio(timed) == pytest.approx((2, 2, 2))
    assert fresh_pairs.median_ms(timed) == pytest.approx((5, 5, 5))


def test_what_fresh_processes_differ_by_is_in_the_intervals() -> None:
    # Every second process is 4 % slower, each of them without any noise in itself.
    machine = Machine()
    timed = sessions(machine, Openings(machine, 10, 10.4), Openings(machine, 10))
    for estimate, truth in ((fresh_pairs.ratio(timed), 1 / 1.02), (fresh_pairs.median_ms(timed), 10.2)):
        assert estimate.low < truth * 0.985
        assert estimate.high > truth * 1.015


def test_the_blocks_of_all_pairs_take_the_time_that_is_asked_for() -> None:
    protocol = fresh_pairs.lasting(4.0)
    assert protocol.blocks == fresh_pairs.LONG.blocks
    assert fresh_pairs.PAIRS * 2 * protocol.blocks * protocol.block_s == pytest.approx(4.0)
    assert protocol.warm_s == pytest.approx(min(fresh_pairs.LONG.warm_s, 4.0 / fresh_pairs.PAIRS / 4))
