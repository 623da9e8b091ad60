"""Metrics of numbers against scipy and scikit-learn, and their intervals against resampling rows one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_squared_error, r2_score

from objectives import quality, stats
from objectives.arrays import Floats
from objectives.metric import Metric
from objectives.number_metrics import NUMBER_METRICS

Score = Callable[[Floats, Floats], float]
SCORES: dict[str, Score] = {
    "pearson": lambda truth, guess: float(pearsonr(truth, guess)[0]),
    "spearman": lambda truth, guess: float(spearmanr(truth, guess)[0]),
    "r_squared": lambda truth, guess: float(r2_score(truth, guess)),
    "rmse": lambda truth, guess: float(mean_squared_error(truth, guess)) ** 0.5,
}
NAMES = list(SCORES)


def numbers(count: int, unit: float = 1.0, noise: float = 0.5) -> tuple[Floats, Floats]:
    """References, with ties, and predictions."""
    generator = np.random.default_rng(0)
    references = generator.integers(1, 6, size=count).astype(np.float64) + 1000
    return references * unit, (references + noise * generator.normal(size=count)) * unit


def test_every_metric_is_tested() -> None:
    assert [metric.name for metric in NUMBER_METRICS] == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_scores_and_draws_are_those_of_scipy_in_any_unit(name: str, unit: float) -> None:
    references, predictions = numbers(60, unit)
    assert quality.score(name, predictions, references, 0) == pytest.approx(SCORES[name](references, predictions))
    metric = quality.metric_named(name)
    generator = np.random.default_rng(1)
    drawn = np.stack([np.bincount(generator.integers(60, size=60), minlength=60) for _ in range(8)]).astype(np.float64)
    assert metric.of_draws is not None
    for value, counts in zip(metric.of_draws(references, predictions, drawn), drawn, strict=True):
        rows = np.repeat(np.arange(60), counts.astype(int))
        assert value == pytest.approx(SCORES[name](references[rows], predictions[rows]))


@pytest.mark.parametrize("name", NAMES)
def test_the_interval_is_that_of_resampled_rows_and_the_loss_is_paired(name: str) -> None:
    references, predictions = numbers(80)
    measurement = quality.quality(name, predictions, references, 0, 0, {})
    picks = np.random.default_rng(5).integers(80, size=(500, 80))
    draws = np.array([SCORES[name](references[pick], predictions[pick]) for pick in picks])
    assert measurement.interval == pytest.approx(stats.percentile_interval(draws, 80), abs=0.03)
    worse = predictions + np.random.default_rng(2).normal(size=80)
    lost = quality.loss_against(name, worse, predictions, references, 0, 0)
    assert 0 < lost.interval[0] < lost.value < lost.interval[1]
    assert "mcnemar_p" not in lost.conditions


@pytest.mark.parametrize("metric", [one for one in NUMBER_METRICS if one.better == "higher"], ids=lambda one: one.name)
def test_a_constant_scores_nothing(metric: Metric) -> None:
    references, _ = numbers(40)
    mean = np.full_like(references, references.mean())
    assert quality.score(metric.name, mean, references, 0) == pytest.approx(0.0, abs=1e-9)
    measurement = quality.quality(metric.name, mean, references, 0, 0, {})
    assert measurement.interval[1] == pytest.approx(0.0, abs=1e-9)
    assert metric.compute(mean, references, 0) == 0.0, "nor does any output on data that are constant"


def test_an_error_is_lost_in_per_cent_of_itself_whatever_its_unit() -> None:
    metric = quality.metric_named("rmse")
    losses = []
    for unit in (1e-6, 1e6):
        references, baseline = numbers(80, unit)
        worse = references + 1.25 * (baseline - references)
        lost = quality.loss_against("rmse", worse, baseline, references, 0, 0)
        assert (lost.unit, lost.better) == ("% of RMSE", "lower")
        value, before = (quality.quality("rmse", side, references, 0, 0, {}).value for side in (worse, baseline))
        assert metric.drop(lost.value) == pytest.approx(metric.utility(before) - metric.utility(value))
        losses.append((lost.value, *lost.interval))
    assert losses == [pytest.approx((25.0, 25.0, 25.0), rel=1e-4)] * 2


def test_a_model_without_an_error_is_no_division_by_zero() -> None:
    references, worse = numbers(20)
    lost = quality.loss_against("rmse", worse, references, references, 0, 0)
    assert np.isfinite([lost.value, *lost.interval]).all() and lost.value > 0
    assert quality.loss_against("rmse", references, references, references, 0, 0).value == 0
    assert np.isfinite(quality.metric_named("rmse").utility(0.0))
