"""Choosing the next token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def probabilities(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """Probabilities (B, V) of the next token from logits (B, V) divided by a temperature above 0.

    All but the most likely tokens that together reach `top_p` have probability 0 (Holtzman et al. 2020, nucleus
    sampling).
    """
    scores = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # at the lowest temperatures what is less likely is infinitely far from the best
        distribution: np.ndarray = np.exp((scores - scores.max(-1, keepdims=True)) / temperature)
    distribution /= distribution.sum(-1, keepdims=True)
    if top_p < 1:
        order = np.argsort(-distribution, -1, kind="stable")
        ranked = np.take_along_axis(distribution, order, -1)
        beyond = np.cumsum(ranked, -1) - ranked >= top_p  # what comes before a token is enough already
        np.put_along_axis(distribution, order, np.where(beyond, 0, ranked), -1)
        distribution /= distribution.sum(-1, keepdims=True)
    return distribution


class Sampler:
    """Chooses the most likely token at temperature 0, else samples one. Each row has its own seed (None: random)."""

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[Sequence[int] | None]) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._random = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Tokens (B,) int64 of logits (B, V)."""
        if self._temperature == 0:
            return np.asarray(logits.argmax(-1))
        reached = np.cumsum(probabilities(logits, self._temperature, self._top_p), -1)
        draws = [random.random() * row[-1] for random, row in zip(self._random, reached, strict=True)]
        return np.array([np.searchsorted(row, x, side="right") for row, x in zip(reached, draws, strict=True)])
