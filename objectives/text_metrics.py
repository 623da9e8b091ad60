"""Metrics of texts: predictions (N,) are mean log-likelihoods of windows, references (N,) their numbers of tokens.

Perplexity is that of all tokens together, exp(-sum of log-likelihoods / number of tokens): a ratio of sums over
windows, also in every bootstrap draw, since windows at the end of a document have fewer tokens.
"""

from __future__ import annotations

import numpy as np

from objectives.arrays import Floats
from objectives.metric import Labels, Metric, Predictions


def _perplexity(references: Labels, predictions: Predictions, classes: int) -> float:
    return float(np.exp(-(predictions * references).sum() / references.sum()))


def _perplexity_of(references: Labels, predictions: Predictions, drawn: Floats) -> Floats:
    perplexities: Floats = np.exp(-(drawn @ (predictions * references)) / (drawn @ references))
    return perplexities


TEXT_METRICS = (
    Metric(
        "perplexity",
        "exp of the mean negative log-likelihood of a token",
        _perplexity,
        None,
        _perplexity_of,
        better="lower",
    ),
)
