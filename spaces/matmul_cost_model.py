"""A cost model of matrix products on one device, fitted to measured times: whether two factors are faster than one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

DIGITS = 3  # significant digits in a recipe; more would be measurement noise


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds of x (tokens, in) by a matrix (in, out), for one number of tokens:

        call + weight * in * out + read * in + write * out

    `weight` includes the multiply-adds of a weight and reading it: for a given number of tokens both grow with in * out
    alone, so measurements cannot separate them (a roofline, Williams et al. 2009, plus the cost of a call).
    """

    call: float
    weight: float
    read: float
    write: float

    def of(self, inputs: int, outputs: int) -> float:
        """Microseconds of one product."""
        return self.call + self.weight * inputs * outputs + self.read * inputs + self.write * outputs

    def factors_are_faster(self, size: tuple[int, int], rank: int) -> bool:
        """Whether (in, rank) and then (rank, out) take less than the whole matrix of `size` (out, in)."""
        outputs, inputs = size
        return self.of(inputs, rank) + self.of(rank, outputs) < self.of(inputs, outputs)

    def text(self) -> str:
        """The form in a recipe, "4.12 0.000187 0.012 0.0031", with `DIGITS` significant digits; see `parse`."""
        return " ".join(f"{value:.{DIGITS}g}" for value in astuple(self))

    @classmethod
    def parse(cls, text: str) -> Costs:
        """The inverse of `text`. Raises ValueError unless `text` is four numbers that are 0 or more."""
        try:
            call, weight, read, write = map(float, text.split())
        except ValueError:
            call = weight = read = write = math.nan
        costs = cls(call, weight, read, write)
        if not all(math.isfinite(value) and value >= 0 for value in astuple(costs)):
            raise ValueError(f"costs must be four numbers of microseconds, 0 or more, got {text!r}")
        return costs


def fit_costs(sizes: Sequence[tuple[int, int]], times_us: Sequence[float]) -> Costs:
    """The costs nearest to the measured times of products by (in, out), in squared relative error.

    Non-negative least squares (Lawson & Hanson 1974, chapter 23), because no term of the time can be negative.

    Raises:
        ValueError: fewer than four sizes, or a time that is not above 0.
    """
    from scipy.optimize import nnls

    times = np.asarray(times_us, dtype=float)
    if len(sizes) < 4 or len(times) != len(sizes):
        raise ValueError(f"a fit needs at least 4 sizes with a time each, got {len(sizes)} and {len(times)}")
    if not (times > 0).all():
        raise ValueError(f"times must be above 0, got {times.min()}")
    rows = np.array([(1.0, i * o, i, o) for i, o in sizes]) / times[:, None]
    scale = np.linalg.norm(rows, axis=0)  # columns of one scale, because in * out is millions of times the constant
    solved, _ = nnls(rows / scale, np.ones(len(times)))
    return Costs(*(float(value) for value in solved / scale))
