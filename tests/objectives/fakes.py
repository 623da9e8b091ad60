"""A machine without noise, or with exactly the noise planted: time passes only when a model says so."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from objectives.bench import Bench, TimedCall
from objectives.clock import Reading
from objectives.paired_timing import Opener

BATCH = {"input_ids": np.ones((2, 4), dtype=np.int64)}


class Machine:
    """A clock that models move on, and a speed they all share."""

    def __init__(self, seed: int = 0, noise: float = 0.0, drift: float = 0.0) -> None:
        self.now = 0.0
        self.awake: set[int] = set()
        self._generator = np.random.default_rng(seed)
        self._noise, self._drift = noise, drift

    def clock(self) -> float:
        return self.now

    def model(self, ms: float, first_ms: float = 0.0, load_s: float = 0.0) -> Callable[[], TimedCall]:
        """Opens a model whose calls take `ms`, times (or through) 1 + |drift| * seconds, times noise."""

        def opened() -> TimedCall:
            self.now += load_s
            left = [first_ms]

            def predict(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
                slowness = (1 + abs(self._drift) * self.now) ** np.sign(self._drift)
                slowness *= np.exp(self._noise * self._generator.exponential())
                self.now += float(ms * slowness + (left.pop() if left else 0.0)) / 1e3
                return {"logits": np.zeros((2, 2), dtype=np.float32)}

            return predict

        return opened

    def read(self, pids: Sequence[int]) -> Reading:
        """Processor time of two CPUs that nobody else uses."""
        return Reading(self.now, 2, self.now, (self.now, *(0.0 for _ in pids[1:])))


class FakeSide:
    """A `Bench` on a `Machine`, with the face of a `Remote`; it must be awake, and alone, to be called."""

    def __init__(self, machine: Machine, pid: int, opened: Callable[[], TimedCall], device: str = "cpu") -> None:
        self.pid = pid
        self.calls: list[str] = []
        self._machine, self._device = machine, device
        self.bench = Bench(opened, clock=machine.clock)
        machine.awake.add(pid)

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        assert self._machine.awake == {self.pid}
        self.calls.append(method)
        if method == "info":
            return {**self.bench.info(), "device": self._device}
        return getattr(self.bench, "block" if method == "device_block" else method)(*arguments)

    def pause(self) -> None:
        self._machine.awake.discard(self.pid)

    def resume(self) -> None:
        self._machine.awake.add(self.pid)


def others(machine: Machine, shares: Sequence[float]) -> Callable[[Sequence[int]], Reading]:
    """Readings of a machine on which other processes take these shares of both CPUs, attempt by attempt."""
    state = {"readings": 0, "taken": 0.0, "since": 0.0}

    def read(pids: Sequence[int]) -> Reading:
        attempt = int(state["readings"]) // 2
        if state["readings"] % 2:
            state["taken"] += 2 * shares[min(attempt, len(shares) - 1)] * (machine.now - state["since"])
        state["readings"] += 1
        state["since"] = machine.now
        quiet = machine.read(pids)
        return replace(quiet, everybody=quiet.everybody + state["taken"])

    return read


class Openings:
    """Fresh processes of models on one machine, and which of them are open.

    `process_sd` is what fresh processes of one model differ by, as a standard deviation of logs.
    """

    def __init__(self, machine: Machine, process_sd: float = 0.0, seed: int = 0, device: str = "cpu") -> None:
        self.open: list[int] = []
        self.most = 0
        self.made: list[int] = []
        self.sides: dict[int, FakeSide] = {}
        self._machine, self._sd, self._device = machine, process_sd, device
        self._generator = np.random.default_rng(seed)
        self._pids = iter(range(1, 10**6))

    def opener(self, key: int, ms: float, side: Callable[..., FakeSide] = FakeSide, load_s: float = 0.0) -> Opener:
        @contextlib.contextmanager
        def opened() -> Iterator[FakeSide]:
            now = ms * math.exp(self._sd * self._generator.standard_normal())
            timed_side = side(self._machine, next(self._pids), self._machine.model(now, 90, load_s), self._device)
            self.open.append(key)
            self.made.append(key)
            self.most = max(self.most, len(self.open))
            self.sides[key] = timed_side
            yield timed_side
            self.open.remove(key)
            timed_side.pause()

        return opened

    def all(self, *ms: float) -> dict[int, Opener]:
        return {key: self.opener(key, one) for key, one in enumerate(ms)}
