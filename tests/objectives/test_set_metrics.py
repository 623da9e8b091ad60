"""Metrics of label sets against scikit-learn, and their intervals against resampling rows one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import f1_score

from objectives import quality, stats
from objectives.metric import Labels, Metric
from objectives.set_metrics import SET_METRICS, constant_set, per_label

NAMES = [metric.name for metric in SET_METRICS]


def sets(count: int, labels: int, right: float = 0.8, seed: int = 0) -> tuple[Labels, Labels]:
    """References and predictions (count, labels) of which about a share `right` agrees."""
    generator = np.random.default_rng(seed)
    references = (generator.random((count, labels)) < np.linspace(0.1, 0.6, labels)).astype(np.int8)
    guesses = generator.integers(2, size=(count, labels)).astype(np.int8)
    return references, np.where(generator.random((count, labels)) < right, references, guesses)


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_scores_are_those_of_scikit_learn(average: str) -> None:
    references, predictions = sets(100, 4)
    expected = f1_score(references, predictions, average=average)
    assert quality.score(f"f1_{average}", predictions, references, 4) == pytest.approx(expected)


def test_the_macro_mean_is_over_all_labels_whichever_the_rows_have() -> None:
    references = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=np.int8)
    assert quality.score("f1_macro", references, references, 3) == pytest.approx(2 / 3)
    assert quality.score("f1_micro", references, references, 3) == 1.0


@pytest.mark.parametrize("metric", SET_METRICS, ids=NAMES)
def test_draws_give_what_rows_give(metric: Metric) -> None:
    references, predictions = sets(30, 3)
    generator = np.random.default_rng(1)
    drawn = np.stack([np.bincount(generator.integers(30, size=30), minlength=30) for _ in range(5)]).astype(np.float64)
    assert metric.of_draws is not None
    for value, counts in zip(metric.of_draws(references, predictions, drawn), drawn, strict=True):
        rows = np.repeat(np.arange(30), counts.astype(int))
        assert value == pytest.approx(metric.compute(references[rows], predictions[rows], 3))


@pytest.mark.parametrize("name", NAMES)
def test_the_interval_is_that_of_resampled_rows(name: str) -> None:
    references, predictions = sets(80, 3)
    measurement = quality.quality(name, predictions, references, 3, 0, {})
    generator = np.random.default_rng(5)
    picks = generator.integers(80, size=(500, 80))
    average = name.removeprefix("f1_")
    draws = np.array([f1_score(references[p], predictions[p], average=average, zero_division=0) for p in picks])
    assert measurement.interval == pytest.approx(stats.percentile_interval(draws, 80), abs=0.03)
    assert measurement.interval[0] < measurement.value < measurement.interval[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_paired_and_tests_whole_sets(name: str) -> None:
    references, predictions = sets(200, 3, 0.9)
    worse = predictions.copy()
    worse[:10] = 1 - worse[:10]
    lost = quality.loss_against(name, worse, predictions, references, 3, 0)
    assert 0 < lost.interval[0] < lost.value
    assert 0 < lost.conditions["mcnemar_p"] < 0.05
    same = quality.loss_against(name, predictions, predictions, references, 3, 0)
    assert (same.value, same.interval) == (0.0, (0.0, 0.0))


def test_few_rows_at_once_give_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    references, predictions = sets(50, 3)
    whole = quality.quality("f1_macro", predictions, references, 3, 0, {})
    monkeypatch.setattr(quality, "CELLS_AT_ONCE", 300)
    assert quality.quality("f1_macro", predictions, references, 3, 0, {}) == whole


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_no_constant_set_is_better_than_the_one_that_is_guessed(name: str, seed: int) -> None:
    references = sets(20, 4, seed=seed)[0]
    scores = [
        quality.score(name, np.tile(np.array(one, dtype=np.int8), (20, 1)), references, 4)
        for one in itertools.product((0, 1), repeat=4)
    ]
    guess = np.tile(constant_set(name, references), (20, 1))
    assert quality.score(name, guess, references, 4) == pytest.approx(max(scores))


def test_results_by_label_name_what_cannot_be_known() -> None:
    references = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]], dtype=np.int8)
    predictions = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=np.int8)
    first, second, third = per_label(predictions, references, ("a", "b", "c", "d"))  # d is nowhere
    assert (first["label"], first["rows"], first["precision"], first["recall"]) == ("a", 2, 1.0, 0.5)
    assert (second["precision"], second["recall"], second["f1"]) == (None, 0.0, 0.0)
    assert (third["label"], third["rows"], third["precision"], third["recall"]) == ("c", 0, 0.0, None)
