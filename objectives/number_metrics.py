"""Metrics of numbers: references and predictions are (N,), in the unit of the data."""

from __future__ import annotations

import numpy as np

from objectives.arrays import Floats
from objectives.metric import Labels, Metric, Predictions


def _pearson(references: Labels, predictions: Predictions, classes: int) -> float:
    from scipy.stats import pearsonr

    return 0.0 if _constant(references) or _constant(predictions) else float(pearsonr(references, predictions)[0])


def _spearman(references: Labels, predictions: Predictions, classes: int) -> float:
    from scipy.stats import spearmanr

    return 0.0 if _constant(references) or _constant(predictions) else float(spearmanr(references, predictions)[0])


def _r_squared(references: Labels, predictions: Predictions, classes: int) -> float:
    from sklearn.metrics import r2_score

    return 0.0 if _constant(references) else float(r2_score(references, predictions))


def _rmse(references: Labels, predictions: Predictions, classes: int) -> float:
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(references, predictions))


def _constant(numbers: Labels) -> bool:
    return bool((numbers == numbers[0]).all())


def _pearson_of(references: Labels, predictions: Predictions, drawn: Floats) -> Floats:
    return _correlations(references[None], predictions[None], drawn)


def _spearman_of(references: Labels, predictions: Predictions, drawn: Floats) -> Floats:
    """The correlation of ranks within each draw: those of the whole sample would be others."""
    return _correlations(_ranks(references, drawn), _ranks(predictions, drawn), drawn)


def _ranks(numbers: Labels, drawn: Floats) -> Floats:
    """(draws, N): the mean rank of each row's number in each draw, half of the rows that are equal counted below it."""
    _, inverse = np.unique(numbers, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.flatnonzero(np.diff(inverse[order], prepend=-1))
    counts = np.add.reduceat(drawn[:, order], starts, axis=1)  # (draws, different numbers)
    ranks: Floats = (np.cumsum(counts, axis=1) - counts / 2)[:, inverse]
    return ranks


def _correlations(x: Floats, y: Floats, drawn: Floats) -> Floats:
    """Of x and y, (draws, N) or (1, N), weighted by how often each row is drawn; 0 where one of them is constant."""
    total = drawn.sum(1)
    x, y = (one - one.mean(1, keepdims=True) for one in (x.astype(np.float64), y.astype(np.float64)))
    mean_x, mean_y = ((drawn * one).sum(1) / total for one in (x, y))
    covariance = (drawn * x * y).sum(1) / total - mean_x * mean_y
    var_x, var_y = ((drawn * one**2).sum(1) / total - mean**2 for one, mean in ((x, mean_x), (y, mean_y)))
    scale = np.sqrt(np.clip(var_x, 0, None) * np.clip(var_y, 0, None))
    some = scale > 1e-12 * (scale.max() or 1.0)
    correlations: Floats = np.divide(covariance, scale, out=np.zeros_like(scale), where=some)
    return correlations


def _r_squared_of(references: Labels, predictions: Predictions, drawn: Floats) -> Floats:
    """1 - the mean squared error over the variance of each draw; 0 where this is none."""
    centred, total = references - references.mean(), drawn.sum(1)
    variance = drawn @ centred**2 / total - (drawn @ centred / total) ** 2
    error = drawn @ (references - predictions) ** 2 / total
    some = variance > 1e-12 * (variance.max() or 1.0)
    r_squared: Floats = np.where(some, 1 - np.divide(error, variance, out=np.zeros_like(error), where=some), 0.0)
    return r_squared


def _rmse_of(references: Labels, predictions: Predictions, drawn: Floats) -> Floats:
    rmse: Floats = np.sqrt(drawn @ np.square(references - predictions) / drawn.sum(1))
    return rmse


NUMBER_METRICS = (
    Metric("pearson", "correlation of outputs and data, -1 to 1", _pearson, None, _pearson_of),
    Metric("spearman", "correlation of the ranks of outputs and data, -1 to 1", _spearman, None, _spearman_of),
    Metric(
        "r_squared",
        "1 - mean squared error over the variance of the data: 1 where all is right, 0 for their mean",
        _r_squared,
        None,
        _r_squared_of,
        words="R squared",
    ),
    Metric(
        "rmse",
        "root of the mean squared error, in the unit of the data",
        _rmse,
        None,
        _rmse_of,
        better="lower",
        words="RMSE",
    ),
)
