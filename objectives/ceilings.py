"""The measured ceilings of a device: memory bandwidth, and operations per second by precision."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from objectives.process import Remote

#: Bytes of a number, by precision.
BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1, "int8-static": 1, "int4": 0.5, "fp8": 1}

#: How many times as fast as in fp32 operations in a precision are assumed to be at least, in kernels that torch cannot
#: call (ONNX Runtime's, OpenVINO's): a register holds so many more numbers. This keeps a floor from being too high.
LANES = {"fp32": 1, "bf16": 2, "fp16": 2, "int8": 4, "int8-static": 4, "int4": 4, "fp8": 4}

#: Weights of 4 bits are widened for the product, to int8 where that is fastest.
PRODUCTS = {"int8-static": "int8", "int4": "int8"}

#: Bytes of the smallest buffer whose reading is timed.
SMALLEST = 1 << 20
KERNEL_SECONDS = 0.15  # for which each kernel is repeated
#: Calls between two readings of the clock. All are queued on a GPU before it is waited for: to launch one and wait
#: takes longer than to read a small model's weights, and would pass for their bandwidth.
CALLS_PER_READING = {"cpu": 1, "cuda": 16}


class Ceilings(Protocol):
    """The two rooflines of a device, as `roofline` needs them."""

    def peak(self, precision: str) -> float:
        """Operations per second in this precision; a multiplication and an addition are two operations."""
        ...

    def bandwidth(self, size: int) -> float:
        """Bytes per second at which a working set of `size` bytes is read repeatedly."""
        ...


class MeasuredCeilings:
    """The ceilings of this machine. Each is measured in a process of its own when first needed, and remembered."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._peaks: dict[str, float] = {}
        self._bandwidths: dict[int, float] = {}

    def peak(self, precision: str) -> float:
        if precision not in self._peaks:
            self._peaks[precision] = self.measure("peak", precision)
        return self._peaks[precision]

    def bandwidth(self, size: int) -> float:
        # A smaller set is read no slower, so the power of two below gives a floor that is low rather than high.
        rounded = max(SMALLEST, 1 << (max(1, size).bit_length() - 1))
        if rounded not in self._bandwidths:
            self._bandwidths[rounded] = self.measure("bandwidth", rounded)
        return self._bandwidths[rounded]

    def measure_again(self) -> None:
        """Measure every known ceiling again and keep the higher value, in case the first measurement was disturbed."""
        for precision, peak in self._peaks.items():
            self._peaks[precision] = max(peak, self.measure("peak", precision))
        for size, bandwidth in self._bandwidths.items():
            self._bandwidths[size] = max(bandwidth, self.measure("bandwidth", size))

    def measure(self, method: str, argument: Any) -> float:
        """Measure one ceiling anew: `method` of a `Meter`, "peak" or "bandwidth", with its argument."""
        with Remote(functools.partial(Meter, self._device, self._threads), timeout_s=120) as meter:
            return float(meter.call(method, argument, timeout_s=120))


@functools.cache
def ceilings(device: str, threads: int) -> MeasuredCeilings:
    """The ceilings that all of this process shares, so that none is measured twice."""
    return MeasuredCeilings(device, threads)


class Meter:
    """Measures ceilings with torch, in a process of its own, so that its buffers count for no model's memory."""

    def __init__(self, device: str, threads: int, clock: Callable[[], float] = time.perf_counter) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        # ONNX Runtime multiplies fp32 in TF32 on a GPU unless told otherwise: the ceiling must cover that.
        torch.backends.cuda.matmul.allow_tf32 = True
        self._torch, self._device, self._clock = torch, device, clock
        self._wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None

    def peak(self, precision: str) -> float:
        """Operations per second: the best of square products in `precision`, and of those in fp32 times `LANES`.

        Raises:
            ValueError: an unknown precision.
        """
        if precision not in LANES:
            raise ValueError(f"precision must be one of {', '.join(LANES)}, got {precision}")
        own = LANES[precision] * self._product("fp32")
        return own if precision == "fp32" else max(own, self._product(PRODUCTS.get(precision, precision)))

    def bandwidth(self, size: int) -> float:
        """Bytes per second: the best of copying (read and written), summing, and multiplying a matrix by a vector."""
        torch = self._torch
        side = math.isqrt(size // 4)
        matrix = torch.ones(side, side, device=self._device)
        vector, other = torch.ones(side, device=self._device), torch.empty_like(matrix)
        held = matrix.numel() * 4
        read = held / min(self.seconds_per_call(lambda: matrix @ vector), self.seconds_per_call(matrix.sum))
        return float(max(read, 2 * held / self.seconds_per_call(lambda: other.copy_(matrix))))

    def _product(self, precision: str) -> float:
        """Operations a second; 0 where torch has no kernel for the precision here."""
        torch = self._torch
        best = 0.0
        for size in (8192,) if self._device == "cuda" else (512, 1024):
            a, b = (torch.ones(size, size, device=self._device) for _ in range(2))
            try:
                run = self._multiply(a, b, precision)
                run()
                best = max(best, 2 * size**3 / self.seconds_per_call(run))
            except (RuntimeError, NotImplementedError):
                return 0.0
        return best

    def _multiply(self, a: Any, b: Any, precision: str) -> Callable[[], Any]:
        torch = self._torch
        if precision == "int8":
            whole, other = a.to(torch.int8), b.to(torch.int8)
            return lambda: torch._int_mm(whole, other)
        if precision == "fp8":
            # The second matrix by columns, which is how the kernel wants it.
            eight, columns = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
            one = torch.ones((), device=self._device)
            return lambda: torch._scaled_mm(eight, columns, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        left, right = a.to(dtype), b.to(dtype)
        return lambda: left @ right

    def seconds_per_call(self, run: Callable[[], Any]) -> float:
        """The shortest time of a call of `run`, because interference only slows it.

        On a GPU it is the time of `CALLS_PER_READING` queued calls and one wait for them, divided by their number.
        """
        calls = CALLS_PER_READING[self._device]
        until = self._clock() + KERNEL_SECONDS
        best, count = math.inf, 0
        while count < 5 or self._clock() < until:
            began = self._clock()
            for _ in range(calls):
                run()
            self._wait()
            best, count = min(best, (self._clock() - began) / calls), count + 1
            if count >= 3 and self._clock() > until + 2:
                break
        return best
