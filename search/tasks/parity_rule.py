"""Parity of two runs of one model: how their outputs are compared, and the tolerances.

A candidate's runtime is compared with eager PyTorch before it is timed, an export with the searched model, and a
checked model with its record. Each task says by which rule (`Task.parity`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

#: By precision, where the same kernels run on the same device: only the order of sums may differ. Integers and short
#: floats step otherwise where a sum before them rounds otherwise.
SAME_DEVICE_TOLERANCE = {
    "fp32": 1e-3,
    "fp16": 2e-2,
    "bf16": 1e-1,
    "int8": 2e-2,
    "int8-static": 2e-2,
    "int4": 2e-2,
    "fp8": 1e-1,
}
#: Times the tolerance, on another kind of device: its kernels sum in another order, and integers step there too.
ELSEWHERE = 20.0


def largest(ours: np.ndarray, reference: np.ndarray) -> float:
    """The largest absolute difference of corresponding numbers."""
    return float(np.abs(ours - reference).max(initial=0.0))


def of_largest(ours: np.ndarray, reference: np.ndarray) -> float:
    """The largest absolute difference over the reference's largest magnitude, since the data may have any unit."""
    return largest(ours, reference) / (float(np.abs(reference).max(initial=0.0)) or 1.0)


def of_length(ours: np.ndarray, reference: np.ndarray) -> float:
    """The largest distance of corresponding embeddings (E, D), as a share of the reference's length.

    At a distance d below 1 their cosine is at least sqrt(1 - d**2), and lengths differ by at most d: a model whose
    embeddings have another length, but the same direction, gives other dot products.
    """
    lengths = np.linalg.norm(reference, axis=-1)
    return float((np.linalg.norm(ours - reference, axis=-1) / np.where(lengths > 0, lengths, 1.0)).max(initial=0.0))


@dataclass(frozen=True)
class Parity:
    """How outputs of one kind are compared.

    unit: what a difference is counted in, in words. runtimes: how far a runtime's fp32 output may be from that of eager
    PyTorch. tolerance: how far a second run may be from the first, by precision, on the same kind of device.
    """

    unit: str
    difference: Callable[[np.ndarray, np.ndarray], float]  # of two float64 arrays of finite numbers
    runtimes: float = SAME_DEVICE_TOLERANCE["fp32"]
    tolerance: Mapping[str, float] = field(default_factory=lambda: SAME_DEVICE_TOLERANCE)

    def between(self, ours: np.ndarray, reference: np.ndarray) -> float:
        """How far outputs are from the reference, in `unit`; infinite where one of them is not finite.

        Raises:
            ValueError: their shapes differ.
        """
        if ours.shape != reference.shape:
            raise ValueError(f"outputs must have the reference's shape {reference.shape}, got {ours.shape}")
        if not (np.isfinite(ours).all() and np.isfinite(reference).all()):
            return float("inf")
        return self.difference(ours.astype(np.float64), reference.astype(np.float64))

    def allowed(self, precision: str, elsewhere: bool) -> float:
        """The largest difference of a second run, on this or (`elsewhere`) another kind of device."""
        return self.tolerance[precision] * (ELSEWHERE if elsewhere else 1.0)

    def shown(self, difference: float) -> str:
        """ "0.0021 logits"."""
        return f"{difference:.2g} {self.unit}"


LOGIT_PARITY = Parity("logits", largest)
NUMBER_PARITY = Parity("of the largest number", of_largest)
EMBEDDING_PARITY = Parity("of an embedding's length", of_length)
LIKELIHOOD_PARITY = Parity("nats of a token's log-likelihood", largest)
