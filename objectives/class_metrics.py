"""Metrics of tasks with one class per row."""

from __future__ import annotations

import numpy as np

from objectives.arrays import Floats
from objectives.metric import Labels, Metric, Predictions


def _accuracy(references: Labels, predictions: Predictions, classes: int) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def _accuracy_of(counts: Floats) -> Floats:
    right: Floats = np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))
    return right


def _f1(references: Labels, predictions: Predictions, classes: int) -> float:
    from sklearn.metrics import f1_score

    labels = [1] if classes <= 2 else np.unique(references)
    return float(f1_score(references, predictions, labels=labels, average="macro", zero_division=0.0))


def _f1_of(counts: Floats) -> Floats:
    """2 TP / (2 TP + FP + FN) of class 1 of two classes; of more classes the mean over those that have a row.

    A class without rows is left out whatever is predicted, so that all models are scored by the same mean.
    """
    rows = counts.sum(-1)
    both = rows + counts.sum(-2)
    hits = 2 * np.diagonal(counts, axis1=-2, axis2=-1)
    by_class = np.divide(hits, both, out=np.zeros_like(both), where=both > 0)
    if counts.shape[-1] <= 2:
        second: Floats = by_class[..., 1]
        return second
    mean: Floats = np.where(rows > 0, by_class, 0.0).sum(-1) / (rows > 0).sum(-1)
    return mean


def _matthews(references: Labels, predictions: Predictions, classes: int) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(references, predictions))


def _matthews_of(counts: Floats) -> Floats:
    """The correlation of two class assignments (Gorodkin, 2004); 0 when either is constant."""
    total = counts.sum((-2, -1))
    truth, guess = counts.sum(-1), counts.sum(-2)
    covariance = np.trace(counts, axis1=-2, axis2=-1) * total - (truth * guess).sum(-1)
    scale = np.sqrt((total**2 - (truth**2).sum(-1)) * (total**2 - (guess**2).sum(-1)))
    correlation: Floats = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
    return correlation


#: Their names are those of the `evaluate` library.
CLASS_METRICS = (
    Metric("accuracy", "share of rows predicted right", _accuracy, _accuracy_of),
    Metric(
        "f1",
        "F1 of class 1 where the task has two classes, else the mean F1 of the classes that have rows",
        _f1,
        _f1_of,
        words="F1",
    ),
    Metric(
        "matthews_correlation",
        "Matthews correlation of predictions and labels, -1 to 1",
        _matthews,
        _matthews_of,
        words="Matthews correlation",
    ),
)
