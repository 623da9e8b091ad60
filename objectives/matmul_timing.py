"""Times of single matrix products, as the linear layers of a model call them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

#: Matrices of each size, used in turn, so that they are evicted from the caches as a model's layers are.
COPIES = 4
#: Passes over the copies between two readings of the clock. A GPU is synchronised only there, as after a whole model.
PASSES = {"cpu": 1, "cuda": 8}
LEAST_ROUNDS = 5


def times_us(
    sizes: Sequence[tuple[int, int]],
    tokens: int,
    device: str,
    seconds: float,
    progress: Callable[[float], None] = lambda done: None,
) -> list[float]:
    """Median microseconds of x (tokens, in) by W (out, in) in float32, for each of `sizes` (in, out).

    Each round times all sizes in random order, so that a machine that slows down slows them all. Rounds go on for
    `seconds`, and there are at least five after one that warms up. The number of torch's threads is not changed.

    Raises:
        ValueError: a size or a number of tokens below 1.
    """
    import torch
    from torch.nn.functional import linear

    if tokens < 1 or any(min(size) < 1 for size in sizes):
        raise ValueError(f"tokens and sizes must be 1 or more, got {tokens} tokens and {list(sizes)}")
    order = np.random.default_rng(0)
    torch.manual_seed(0)
    inputs = {width: torch.randn(tokens, width, device=device) for width, _ in sizes}
    weights = [[torch.randn(out, width, device=device) for _ in range(COPIES)] for width, out in sizes]
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    passes = PASSES.get(device, 1)

    def once(index: int) -> float:
        x, matrices = inputs[sizes[index][0]], weights[index] * passes
        wait()
        began = time.perf_counter()
        for matrix in matrices:
            linear(x, matrix)
        wait()
        return 1e6 * (time.perf_counter() - began) / len(matrices)

    samples: list[list[float]] = []
    with torch.inference_mode():
        began = time.monotonic()
        while len(samples) <= LEAST_ROUNDS or time.monotonic() - began < seconds:
            by_size = {int(index): once(int(index)) for index in order.permutation(len(sizes))}
            samples.append([by_size[index] for index in range(len(sizes))])
            progress(min(1.0, (time.monotonic() - began) / seconds))
    return [float(value) for value in np.median(samples[1:], axis=0)]
