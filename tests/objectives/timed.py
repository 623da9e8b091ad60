"""Measurements of two models on a machine whose noise is planted."""

from __future__ import annotations

from fakes import BATCH, FakeSide, Machine

from objectives import latency
from objectives.latency import QUICK, Protocol
from objectives.measurement import Measurement

Measurements = dict[str, Measurement]


def sides(machine: Machine, ms: float, baseline_ms: float) -> tuple[FakeSide, FakeSide]:
    return FakeSide(machine, 1, machine.model(ms)), FakeSide(machine, 2, machine.model(baseline_ms))


def measure(machine: Machine, ms: float, baseline_ms: float, seed: int = 0, protocol: Protocol = QUICK) -> Measurements:
    return latency.measure(*sides(machine, ms, baseline_ms), [BATCH], protocol, seed, {}, machine.read)
