"""A loaded model in a process of its own, and the loop that times its calls."""

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
TimedCall = Callable[[Batch], dict[str, np.ndarray]]
ReadClock = Callable[[], float]

#: Calls that take more seconds than this are long: one of them fills the processor's caches many times over.
LONG_CALL_S = 0.25
#: Warm-up ends when the medians of two windows in a row differ by less than this.
STEADY = 0.01
#: The bound on the warm-up's time is divided into this many windows.
WINDOWS = 10


class Warmth(TypedDict):
    """How the warm-up ended."""

    seconds: float
    calls: int
    drift: float | None  # relative change between the last two windows; None: there was time for only one


class Bench:
    """Opens a model and times it. Meant to be held in a `Remote`: `open_bench` does that.

    Args:
        open_predict: loads the model; whatever it raises is raised by the constructor.
        device: "cpu" or "cuda".
        threads: number of threads on the host; 0 leaves the runtime's default.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        open_predict: Callable[[], TimedCall],
        device: str = "cpu",
        threads: int = 0,
        clock: ReadClock = time.perf_counter,
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
        self._peak_reset = reset_peak_memory()
        if device == "cuda":
            _torch().cuda.reset_peak_memory_stats()
        self._first_call_ms: float | None = None
        self._token_ms: list[list[float]] = []
        self._last_s = 0.0  # of the last timed call
        self._next = 0

    def info(self) -> dict[str, Any]:
        """`prepare_s`, `first_call_ms` (None before any call), `pid`, `device`, `generates`, and memory in MB.

        MB are of 1e6 bytes. `empty_mb` and `opened_mb` are the memory held before and after opening. `peak_rss_mb` is
        the peak of the whole process, interpreter and libraries included. `peak_since` is "opened" where that peak
        excludes what only loading or exporting needed, else "process start". On CUDA `cuda_allocated_mb` and
        `cuda_reserved_mb` are the peaks of torch's allocator since opening.
        """
        facts = {
            "prepare_s": self._prepare_s,
            "first_call_ms": self._first_call_ms,
            "pid": os.getpid(),
            "device": self._device,
            "generates": hasattr(self._predict, "token_times"),
            "empty_mb": self._empty_mb,
            "opened_mb": self._opened_mb,
            "peak_rss_mb": peak_memory_mb(),
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
        """Call until the median time changes by less than 1 % between two windows, for about `bound_s` seconds at most.

        One call of each input shape, which may compile, comes first and is not counted in `bound_s`.
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
        """Milliseconds of each call, one call after the other, for `seconds` and at least `minimum` calls.

        Times are end to end on the host: numpy arrays in, numpy arrays out, copies to and from a device included.
        Inputs are taken in turn, continuing where the last block ended. Inputs of several shapes are taken equally
        often, so that all blocks do the same work. One untimed call comes first, because it finds the caches full of
        another process's data; it is left out where calls take longer than `LONG_CALL_S`, because filling the caches is
        then a small part of their time.
        """
        if self._last_s <= LONG_CALL_S:
            self._call(inputs[self._next % len(inputs)])
        self._token_ms = []
        with _collector_off():
            return [self._time(batch) for batch in self._for_seconds(inputs, seconds, minimum, cycle_of(inputs))]

    def token_times(self) -> list[list[float]]:
        """For each call of the last block, milliseconds from its start to each token; [] without generation."""
        return self._token_ms

    def device_block(self, inputs: Sequence[Batch], seconds: float, minimum: int) -> list[float]:
        """Like `block`, but milliseconds between two CUDA events in the current stream around each call.

        A time covers copies, kernels and the gaps between them, but not the host's work before and after.
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
    open_predict: Callable[[], TimedCall],
    device: str = "cpu",
    threads: int = 0,
    timeout_s: float | None = None,
    waiting: Waiting = "default",
    limit_s: Callable[[], float] | None = None,
) -> Remote:
    """A `Bench` in a process of its own. Exceptions of `open_predict` there are raised here.

    Args:
        open_predict: loads the model; must pickle, as a `functools.partial` of a module's function does.
        device, threads: as of `Bench`.
        timeout_s: seconds that opening may take; None: no limit.
        waiting: "passive" for a process that is not timed.
        limit_s: asked before each call for the seconds that the call may take.
    """
    factory = functools.partial(Bench, open_predict, device, threads)
    return Remote(factory, timeout_s=timeout_s, waiting=waiting, limit_s=limit_s)


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """No garbage collection inside the block; one collection comes before it."""
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
    """On a CPU a call has ended when it returns, so there is nothing to wait for."""


def _torch() -> Any:
    """The module torch. Only CUDA needs it here, and runtimes on a CPU may do without its import."""
    import torch

    return torch


def cycle_of(inputs: Sequence[Batch]) -> int:
    """The number of calls after which inputs of several shapes were taken equally often; 1 where all have one shape."""
    return len(inputs) if len(_one_of_each_shape(inputs)) > 1 else 1


def _one_of_each_shape(inputs: Sequence[Batch]) -> list[Batch]:
    by_shape = {tuple(sorted((name, array.shape) for name, array in batch.items())): batch for batch in inputs}
    return list(by_shape.values())


def reset_peak_memory() -> bool:
    """Reset the peak of resident memory; False where the kernel cannot (proc(5), /proc/pid/clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory_mb() -> float:
    """The peak of this process's resident memory since it was reset, MB of 1e6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
