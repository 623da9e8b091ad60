"""How good predictions are: metrics that work offline, their intervals, and the loss against a baseline."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from objectives import stats
from objectives.arrays import Floats
from objectives.class_metrics import CLASS_METRICS
from objectives.measurement import Measurement, Objective
from objectives.metric import Labels, Metric, Predictions
from objectives.number_metrics import NUMBER_METRICS
from objectives.paired_test import CELLS_AT_ONCE, OfWeights, mcnemar, permutation
from objectives.row_metrics import ROW_METRICS
from objectives.set_metrics import SET_METRICS
from objectives.text_metrics import TEXT_METRICS

if TYPE_CHECKING:
    import evaluate


#: Every metric of every task.
ALL = (*CLASS_METRICS, *SET_METRICS, *NUMBER_METRICS, *TEXT_METRICS, *ROW_METRICS)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in ALL})
#: Metrics of classes that are the share of right rows.
RIGHT_ROWS = ("accuracy",)

#: A measurement of it has the `loss_unit` of its metric.
QUALITY_LOSS = Objective(
    "quality_loss", "points", "lower", "metric lost against the baseline, in points of 0.01, or in % of an error"
)


def metrics() -> tuple[Metric, ...]:
    """Every metric of every task."""
    return tuple(METRICS.values())


def objectives() -> tuple[Objective, ...]:
    """Every metric as an objective, and the loss against the baseline."""
    return (*(metric.objective for metric in metrics()), QUALITY_LOSS)


def metric_named(name: str) -> Metric:
    """The metric of this name. Raises ValueError where there is none."""
    if name not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {name}")
    return METRICS[name]


def score(metric: str, predictions: Predictions, references: Labels, classes: int) -> float:
    """The metric of predictions (N,) against references (N,), or (N, C) of label sets, by its `evaluate.Metric`.

    `classes` is the size of the task's label set, whatever labels the rows have.

    Raises:
        ValueError: an unknown metric, no rows, or predictions and references of different shapes.
    """
    _check(predictions, references)
    scores = evaluate_metric(metric).compute(predictions=predictions, references=references, classes=classes)
    return float(scores[metric])


def constant_guess(metric: str, references: Labels, classes: int) -> tuple[float, int]:
    """(the metric, the class) of the best model that gives every row the same class; the first of equally good ones."""
    scores = [score(metric, np.full_like(references, one), references, classes) for one in range(classes)]
    best = int(np.argmax(scores))
    return scores[best], best


@functools.cache
def evaluate_metric(name: str) -> evaluate.Metric:
    """The metric as an `evaluate.Metric` that needs no network and leaves no files. The import takes seconds."""
    import datasets
    import evaluate

    metric = metric_named(name)

    class Offline(evaluate.Metric):  # type: ignore[misc, unused-ignore]
        def _info(self) -> evaluate.MetricInfo:
            column = datasets.Value("int64" if metric.of_counts else "float64")
            if metric in SET_METRICS:
                column = datasets.Sequence(datasets.Value("int8"))
            return evaluate.MetricInfo(
                description=metric.description,
                citation="",
                inputs_description="predictions and references: class numbers from 0, label sets, or scores and zeros",
                features=datasets.Features({"predictions": column, "references": column}),
            )

        def _compute(self, predictions: Sequence[int], references: Sequence[int], classes: int = 2) -> dict[str, float]:
            return {metric.name: metric.compute(np.asarray(references), np.asarray(predictions), classes)}

    with tempfile.TemporaryDirectory() as folder:  # evaluate makes a folder even for what it keeps in memory
        return Offline(keep_in_memory=True, cache_dir=folder)


def quality(
    metric: str, predictions: Predictions, references: Labels, classes: int, seed: int, conditions: Mapping[str, Any]
) -> Measurement:
    """The metric with its bootstrap interval over rows, for a task with `classes` classes.

    The interval covers the sampling of rows, for this one model. Where all rows are right, or all wrong, it has no
    width, which is too narrow.
    """
    value = score(metric, predictions, references, classes)
    [draws] = _draws(metric, [predictions], references, classes, seed)
    interval = stats.percentile_interval(draws, len(references))
    return metric_named(metric).objective.measured(value, interval, len(references), conditions)


def loss_against(
    metric: str,
    predictions: Predictions,
    baseline_predictions: Predictions,
    references: Labels,
    classes: int,
    seed: int,
    conditions: Mapping[str, Any] | None = None,
) -> Measurement:
    """The loss of the metric against the baseline (`Metric.loss`, in `Metric.loss_unit`); negative for a better model.

    The interval is a paired bootstrap over rows, so rows that both get wrong do not widen it. `conditions` gain `p`,
    the two-sided p-value of so large a difference between equally good models, and `test`, the test's name in words
    (`objectives.paired_test`); and `mcnemar_p`, of the exact McNemar test, where a row is either right or wrong.
    """
    counted = metric_named(metric)
    ours, theirs = (score(metric, side, references, classes) for side in (predictions, baseline_predictions))
    lost = float(counted.loss(ours, theirs))
    drawn, baseline_drawn = _draws(metric, [predictions, baseline_predictions], references, classes, seed)
    low, high = stats.percentile_interval(counted.loss(drawn, baseline_drawn), len(references))
    tests = _tests(metric, predictions, baseline_predictions, references, classes, seed)
    noted = {**(conditions or {}), "metric": metric, **tests}
    return replace(QUALITY_LOSS, unit=counted.loss_unit).measured(lost, (low, high), len(references), noted)


def per_class(predictions: Predictions, references: Labels, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Precision, recall and F1 of every class that appears, with its number of rows; plain JSON.

    Recall has Wilson's interval (1927), because a class may have few rows. Precision is None for a class that is
    never predicted, recall for one that has no row.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    _check(predictions, references)
    labels = np.union1d(references, predictions)
    *scores, _ = precision_recall_fscore_support(references, predictions, labels=labels, zero_division=np.nan)
    counts = confusion_matrix(references, predictions, labels=labels)
    columns = (labels, *scores, np.diagonal(counts), counts.sum(1))
    return [
        {
            "label": names[label] if label < len(names) else str(label),
            "rows": rows,
            "precision": None if math.isnan(precision) else precision,
            "recall": recall if rows else None,
            "recall_interval": list(stats.share_interval(hits, rows)) if rows else None,
            "f1": f1,
        }
        for label, precision, recall, f1, hits, rows in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _right(metric: str, predictions: Predictions, references: Labels) -> NDArray[np.bool_] | None:
    """(N,) whether a row is right; None where a row can be partly right."""
    if metric_named(metric).of_counts is not None:
        right: NDArray[np.bool_] = predictions == references
        return right
    if predictions.ndim == 2:  # a label set is right as a whole
        whole: NDArray[np.bool_] = (predictions == references).all(1)
        return whole
    if metric_named(metric).of_draws is not None:  # of numbers
        return None
    return predictions == 1 if bool(np.isin(predictions, (0, 1)).all()) else None


def _draws(metric: str, sides: Sequence[Predictions], references: Labels, classes: int, seed: int) -> list[Floats]:
    """The metric of every side on the same bootstrap samples of rows, (draws,) each.

    Rows with equal reference and equal predictions form a cell, and cells are drawn by their numbers of rows.
    """
    of_weights = _of_weights(metric, classes)
    cells, counts = np.unique(np.stack([references, *sides]), axis=1, return_counts=True)
    samples = stats.resample_counts(counts, seed)
    step = max(1, CELLS_AT_ONCE // len(counts))
    some = [samples[start : start + step].astype(np.float64) for start in range(0, len(samples), step)]
    return [np.concatenate([of_weights(cells[0], side, part) for part in some]) for side in cells[1:]]


def _of_weights(metric: str, classes: int) -> OfWeights:
    """The metric from how often each row counts: references (N,), predictions (N,), (draws, N) -> (draws,)."""
    counted = metric_named(metric)
    if counted.of_draws is not None:
        return counted.of_draws
    of_counts = counted.of_counts
    if of_counts is None:
        return lambda references, scores, weights: weights @ scores / weights.sum(1)

    def by_confusion(references: Labels, predictions: Predictions, weights: Floats) -> Floats:
        pair = references.astype(np.int64), predictions.astype(np.int64)
        return of_counts(_confusion(weights, *pair, max(2, classes)))

    return by_confusion


def _tests(
    metric: str, predictions: Predictions, baseline: Predictions, references: Labels, classes: int, seed: int
) -> dict[str, Any]:
    """Conditions of a loss that say how likely it is by chance."""
    counted = metric_named(metric)
    right, baseline_right = (_right(metric, side, references) for side in (predictions, baseline))
    mean_of_rows = counted.of_counts is None and counted.of_draws is None
    by_rows = None if right is None or baseline_right is None else mcnemar(right, baseline_right)
    noted = {} if by_rows is None else {"mcnemar_p": by_rows.p}
    if by_rows is not None and (metric in RIGHT_ROWS or mean_of_rows):
        test = by_rows
    else:
        test = permutation(_of_weights(metric, classes), predictions, baseline, references, counted.title, seed)
    return {**noted, "p": test.p, "test": test.words}


def _confusion(drawn: Floats, references: Labels, predictions: Predictions, classes: int) -> Floats:
    """Counts by cell (draws, cells) to confusion counts (draws, C, C)."""
    one_hot = np.zeros((drawn.shape[1], classes * classes))
    one_hot[np.arange(drawn.shape[1]), references * classes + predictions] = 1
    return (drawn @ one_hot).reshape(-1, classes, classes)


def _check(predictions: Predictions, references: Labels) -> None:
    if len(references) == 0 or predictions.shape != references.shape:
        shapes = f"{predictions.shape} and {references.shape}"
        raise ValueError(f"need as many predictions as references, one or more, got {shapes}")
