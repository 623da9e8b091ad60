"""Metrics of label sets: references and predictions are (N, C), 1 where a row has a label and 0 elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from objectives import stats
from objectives.arrays import Floats
from objectives.metric import Labels, Metric, Predictions


def _f1(average: str) -> Callable[[Labels, Predictions, int], float]:
    def compute(references: Labels, predictions: Predictions, classes: int) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(references, predictions, average=average, zero_division=0.0))

    return compute


def _sums(references: Labels, predictions: Predictions, drawn: Floats) -> tuple[Floats, Floats]:
    """(2 TP, 2 TP + FP + FN) of each label in each draw, (draws, C) each."""
    hits = 2.0 * (references * predictions)
    return drawn @ hits, drawn @ (references.astype(np.float64) + predictions)


def _shares(hits: Floats, both: Floats) -> Floats:
    shares: Floats = np.divide(hits, both, out=np.zeros_like(both), where=both > 0)
    return shares


def _micro_of(references: Labels, predictions: Predictions, drawn: Floats) -> Floats:
    hits, both = _sums(references, predictions, drawn)
    return _shares(hits.sum(-1), both.sum(-1))


def _macro_of(references: Labels, predictions: Predictions, drawn: Floats) -> Floats:
    mean: Floats = _shares(*_sums(references, predictions, drawn)).mean(-1)
    return mean


#: Metrics over all labels of the task: a label without rows counts 0.
SET_METRICS = (
    Metric(
        "f1_micro", "F1 of all pairs of a row and a label together", _f1("micro"), None, _micro_of, words="micro F1"
    ),
    Metric(
        "f1_macro", "mean F1 of all labels, 0 for one that no row has", _f1("macro"), None, _macro_of, words="macro F1"
    ),
)


def constant_set(metric: str, references: Labels) -> Labels:
    """(C,) 0 or 1: the label set with the best metric when it is predicted for every row.

    The F1 of a label that is predicted for every row grows with its number of rows, so the best set is that of the k
    most frequent labels for some k.
    """
    counts = references.sum(0)
    if metric == "f1_macro":  # a sum over labels, each of which gains by being given wherever it has rows
        labels: Labels = (counts > 0).astype(np.int8)
        return labels
    order = np.argsort(-counts, kind="stable")
    sizes = np.arange(1, len(counts) + 1)
    scores = 2 * np.cumsum(counts[order]) / (len(references) * sizes + max(1, counts.sum()))
    best = np.zeros(len(counts), dtype=np.int8)
    best[order[: int(scores.argmax()) + 1]] = 1
    return best


def per_label(predictions: Predictions, references: Labels, names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of every label that appears, with the number of rows that have it; plain JSON.

    As in `quality.per_class`, recall has Wilson's interval, and undefined values are None.
    """
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, rows = precision_recall_fscore_support(references, predictions, zero_division=np.nan)
    hits = (references * predictions).sum(0)
    return [
        {
            "label": names[i],
            "rows": int(rows[i]),
            "precision": None if math.isnan(precision[i]) else float(precision[i]),
            "recall": float(recall[i]) if rows[i] else None,
            "recall_interval": list(stats.share_interval(int(hits[i]), int(rows[i]))) if rows[i] else None,
            "f1": float(f1[i]),
        }
        for i in range(len(names))
        if rows[i] or predictions[:, i].any()
    ]
