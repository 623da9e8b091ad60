"""A prepared model on the bench: what is timed, in a process of its own, and the loop that times it."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import psutil

from objectives.fork_server import Waiting
from objectives.process import Remote

Batch = Mapping[str, np.ndarray]
Predict = Callable[[Batch], dict[str, np.ndarray]]
Clock = Callable[[], float]

#: Calls above so many seconds are long: one of them fills the processor's caches many times over.
LONG_CALL_S = 0.25
#: Warm-up ends when the medians of two windows in a row differ by less than this.
STEADY = 0.01
#: The warm-up bound is cut into this many windows.
WINDOWS = 10


class Warmth(TypedDict):
    """How the warm-up ended."""

    seconds: float
    calls: int
    drift: float | None  # relative change between the last two windows; None: there was time for one only


class Bench:
    """Opens a model and times it. Meant to be held in a `Remote`: `open_bench` does that.

    Args:
        open_predict: loads the model; whatever it raises is raised by the constructor.
        device: "cpu" or "cuda".
        threads: for what runs on the host; 0 leaves the runtime's own default.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        open_predict: Callable[[], Predict],
        device: str = "cpu",
        threads: int = 0,
        clock: Clock = time.perf_counter,
    ) -> None:
        _limit_threads(threads)
        self._clock = clock
        self._wait: Callable[[], None] = _torch().cuda.synchronize if device == "cuda" else _nothing
        self._device = device
        self._empty_mb = self._held_mb()
        began = clock()
        self._predict = open_predict()
        self._wait()
        self._prepare_s = clock() - began
        self._opened_mb = self._held_mb()
        self._peak_reset = _reset_peak_memory()
        if device == "cuda":
            _torch().cuda.reset_peak_memory_stats()
        self._first_call_ms: float | None = None
        self._token_ms: list[list[float]] = []
        self._last_s = 0.0  # of the last timed call
        self._next = 0

    def info(self) -> dict[str, Any]:
        """prepare_s, first_call_ms (None before any call), pid, device, whether calls generate tokens, memory in MB.

        `empty_mb` and `opened_mb` are what was held before and after opening. `peak_rss_mb` is what the whole
        process held, interpreter and libraries too. `peak_since` says since when: "opened" leaves out what only
        loading or exporting needed.
        """
        facts = {
            "prepare_s": self._prepare_s,
            "first_call_ms": self._first_call_ms,
            "pid": os.getpid(),
            "device": self._device,
            "generates": hasattr(self._predict, "token_times"),
            "empty_mb": self._empty_mb,
            "opened_mb": self._opened_mb,
            "peak_rss_mb": _peak_memory_mb(),
            "peak_since": "opened" if self._peak_reset else "process start",
        }
        if self._device == "cuda":
            facts["cuda_allocated_mb"] = _torch().cuda.max_memory_allocated() / 1e6
            facts["cuda_reserved_mb"] = _torch().cuda.max_memory_reserved() / 1e6
        return facts

    def predict(self, batches: Sequence[Batch]) -> list[dict[str, np.ndarray]]:
        """The outputs for each of `batches`, untimed."""
        return [self._call(batch) for batch in batches]

    def warm(self, inputs: Sequence[Batch], bound_s: float) -> Warmth:
        """Call until speed drifts by less than 1 % between windows, for about `bound_s` seconds at most.

        The first call of every shape, which may compile, comes before and is not counted in the bound.
        """
        for batch in _one_of_each_shape(inputs):
            self._call(batch)
        began = self._clock()
        last: float | None = None
        drift: float | None = None
        calls = 0
        while (drift is None or drift > STEADY) and self._clock() - began < bound_s:
            window = [self._time(batch) for batch in self._for_seconds(inputs, bound_s / WINDOWS, 2)]
            median = statistics.median(window)
            drift = None if last is None else abs(median / last - 1)
            last, calls = median, calls + len(window)
        return Warmth(seconds=self._clock() - began, calls=calls, drift=drift)

    def block(self, inputs: Sequence[Batch], seconds: float, minimum: int) -> list[float]:
        """Milliseconds of every call, one after the other, for `seconds` and at least `minimum` calls.

        End to end on the host: numpy arrays in, numpy arrays out, copies to and from a device included.
        Inputs are taken in turn, going on where the last block ended; of inputs of several shapes each equally often,
        so that all blocks have the same work. One call before them is not counted: it finds the caches full of another
        process's data. Calls above `LONG_CALL_S` have none before them: filling the caches is a small part of their
        time.
        """
        if self._last_s <= LONG_CALL_S:
            self._call(inputs[self._next % len(inputs)])
        self._token_ms = []
        with _collector_off():
            return [self._time(batch) for batch in self._for_seconds(inputs, seconds, minimum, cycle_of(inputs))]

    def token_times(self) -> list[list[float]]:
        """Of each call of the last block, milliseconds from its beginning to each token; [] of what generates none."""
        return self._token_ms

    def device_block(self, inputs: Sequence[Batch], seconds: float, minimum: int) -> list[float]:
        """Like `block`, but milliseconds between two CUDA events in the current stream around each call.

        Holds copies, kernels and the gaps between them; not the host's own work before and after.
        """
        event = functools.partial(_torch().cuda.Event, enable_timing=True)
        self._call(inputs[self._next % len(inputs)])
        spans = []
        with _collector_off():
            for batch in self._for_seconds(inputs, seconds, minimum, cycle_of(inputs)):
                start, end = event(), event()
                start.record()
                self._predict(batch)
                end.record()
                spans.append((start, end))
        self._wait()
        return [start.elapsed_time(end) for start, end in spans]

    def _held_mb(self) -> float:
        """Memory held now: allocated by torch on CUDA, resident on a CPU."""
        if self._device == "cuda":
            return float(_torch().cuda.memory_allocated()) / 1e6
        return float(psutil.Process().memory_info().rss) / 1e6

    def _for_seconds(self, inputs: Sequence[Batch], seconds: float, minimum: int, cycle: int = 1) -> Iterator[Batch]:
        """Inputs in turn, for `seconds`, at least `minimum`, and a multiple of `cycle`."""
        until, calls = self._clock() + seconds, 0
        while calls < minimum or calls % cycle or self._clock() < until:
            yield inputs[self._next % len(inputs)]
            self._next += 1
            calls += 1

    def _time(self, batch: Batch) -> float:
        began = self._clock()
        self._predict(batch)
        self._wait()
        seconds = self._last_s = self._clock() - began
        marks = getattr(self._predict, "token_times", None)
        if marks is not None:
            self._token_ms.append([(mark - began) * 1e3 for mark in marks])
        return seconds * 1e3

    def _call(self, batch: Batch) -> dict[str, np.ndarray]:
        if self._first_call_ms is not None:
            return self._predict(batch)
        began = self._clock()
        outputs = self._predict(batch)
        self._wait()
        self._first_call_ms = (self._clock() - began) * 1e3
        gc.collect()
        gc.freeze()  # all that is loaded now stays: later collections need not look at it
        return outputs


def open_bench(
    open_predict: Callable[[], Predict],
    device: str = "cpu",
    threads: int = 0,
    timeout_s: float | None = None,
    waiting: Waiting = "default",
    limit_s: Callable[[], float] | None = None,
) -> Remote:
    """A `Bench` in a process of its own; "passive" `waiting` is for one that nobody times.

    `limit_s` says at each call how many seconds it may take at most.

    `open_predict` must pickle (a `functools.partial` of a module's function does).
    What it raises is raised here.
    """
    factory = functools.partial(Bench, open_predict, device, threads)
    return Remote(factory, timeout_s=timeout_s, waiting=waiting, limit_s=limit_s)


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """No garbage collection while timing; it is caught up with first."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _limit_threads(threads: int) -> None:
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for a runtime that is imported later
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)


def _nothing() -> None:
    """The host has nothing to wait for."""


def _torch() -> Any:
    """torch, which only a CUDA device needs here: a CPU runtime may well do without."""
    import torch

    return torch


def cycle_of(inputs: Sequence[Batch]) -> int:
    """Calls after which inputs of several shapes have all been taken equally often; 1 where all have one shape."""
    return len(inputs) if len(_one_of_each_shape(inputs)) > 1 else 1


def _one_of_each_shape(inputs: Sequence[Batch]) -> list[Batch]:
    by_shape = {tuple(sorted((name, array.shape) for name, array in batch.items())): batch for batch in inputs}
    return list(by_shape.values())


def _reset_peak_memory() -> bool:
    """Forget the peak of resident memory so far; whether the kernel can (proc(5), /proc/pid/clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
