"""Metrics against scikit-learn, intervals against resampling rows one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from objectives import quality, stats
from objectives.quality import CLASS_METRICS as METRICS
from objectives.quality import Metric
from objectives.row_metrics import ROW_METRICS

Labels = NDArray[np.int64]
NAMES = [metric.name for metric in METRICS]


def rows(count: int, classes: int, right: float, seed: int = 0) -> tuple[Labels, Labels]:
    """References and predictions of which about a share `right` agrees."""
    generator = np.random.default_rng(seed)
    references = generator.integers(classes, size=count)
    guesses = generator.integers(classes, size=count)
    return references, np.where(generator.random(count) < right, references, guesses)


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_scikit_learn(classes: int) -> None:
    references, predictions = rows(200, classes, 0.6)
    average = "binary" if classes == 2 else "macro"
    expected = {
        "accuracy": accuracy_score(references, predictions),
        "f1": f1_score(references, predictions, average=average),
        "matthews_correlation": matthews_corrcoef(references, predictions),
    }
    scores = {name: quality.score(name, predictions, references, classes) for name in NAMES}
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_labels_that_no_row_happens_to_have_change_no_metric(name: str) -> None:
    """The task has three labels; the rows have two of them, until one more row has the third."""
    references, predictions = rows(200, 2, 0.7)
    few = quality.score(name, predictions, references, 3)
    more = quality.score(name, np.append(predictions, 2), np.append(references, 2), 3)
    scorers = {
        "accuracy": accuracy_score,
        "f1": lambda truth, guess: f1_score(truth, guess, average="macro"),
        "matthews_correlation": matthews_corrcoef,
    }
    assert few == pytest.approx(scorers[name](references, predictions))
    assert more == pytest.approx(scorers[name](np.append(references, 2), np.append(predictions, 2)))
    low, high = quality.quality(name, predictions, references, 3, 0, {}).interval
    assert low < few < high


def test_one_guess_of_a_class_without_rows_costs_the_f1_no_more_than_a_wrong_row() -> None:
    references, predictions = rows(200, 2, 1.0)
    wrong = predictions.copy()
    wrong[0] = 2
    assert quality.score("f1", wrong, references, 3) > 0.99
    lost = quality.loss_against("f1", wrong, predictions, references, 3, 0)
    assert 0 < lost.value < 1 and lost.interval[1] < 2


def test_f1_of_two_classes_is_of_the_second_whatever_the_rows_have() -> None:
    references, predictions = np.array([0, 0, 1]), np.array([0, 1, 1])
    assert quality.score("f1", predictions, references, 2) == pytest.approx(2 / 3)
    assert quality.score("f1", predictions[:2], references[:2], 2) == 0


@pytest.mark.parametrize(
    ("name", "labels", "value", "best"),
    [
        ("accuracy", [0, 0, 0, 1], 0.75, 0),
        ("f1", [0, 0, 0, 1], 2 / 5, 1),  # to say nothing but the second class finds all of it
        ("f1", [0, 0, 2, 2, 2], (0 + 2 * 3 / 8) / 2, 2),
        ("matthews_correlation", [0, 0, 0, 1], 0.0, 0),
    ],
)
def test_the_best_constant_guess_is_that_of_the_metric(name: str, labels: list[int], value: float, best: int) -> None:
    classes = max(labels) + 1
    assert quality.constant_guess(name, np.array(labels), classes) == (pytest.approx(value), best)


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
@pytest.mark.parametrize(
    ("references", "predictions"),
    [
        rows(150, 2, 0.7),
        rows(150, 5, 0.5),
        ([0, 1, 1, 0], [0, 0, 0, 0]),  # one class predicted
        ([1, 1, 1], [1, 1, 1]),  # one class there is
        ([0, 0, 0], [0, 0, 0]),
        ([0, 1, 0, 1], [0, 1, 2, 1]),  # a class that only a prediction has
        ([0, 2, 0, 2], [0, 2, 2, 2]),  # a class that nothing has
    ],
)
def test_counts_give_what_rows_give(metric: Metric, references: list[int], predictions: list[int]) -> None:
    truth, guess = np.array(references), np.array(predictions)
    classes = max(2, int(truth.max()) + 1, int(guess.max()) + 1)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (truth, guess), 1)
    assert metric.of_counts(counts) == pytest.approx(metric.compute(truth, guess, classes))


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_the_interval_is_that_of_resampled_rows(metric: Metric) -> None:
    references, predictions = rows(300, 3, 0.7)
    picks = np.random.default_rng(1).integers(300, size=(1000, 300))
    brute = np.array([metric.compute(references[pick], predictions[pick], 3) for pick in picks])
    measurement = quality.quality(metric.name, predictions, references, 3, 0, {"split": "test"})
    assert measurement.value == pytest.approx(metric.compute(references, predictions, 3))
    # Two bootstraps of a thousand draws and more: their ends differ by under a seventh of the interval.
    low, high = stats.percentile_interval(brute, 300)
    np.testing.assert_allclose(measurement.interval, (low, high), atol=(high - low) / 7)
    assert (measurement.samples, measurement.better, measurement.conditions["split"]) == (300, "higher", "test")


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_in_points_and_positive_where_the_baseline_is_better(name: str) -> None:
    references, good = rows(500, 3, 0.9)
    _, bad = rows(500, 3, 0.5)
    lost = quality.loss_against(name, bad, good, references, 3, 0)
    gained = quality.loss_against(name, good, bad, references, 3, 0)
    difference = quality.score(name, good, references, 3) - quality.score(name, bad, references, 3)
    assert lost.value == pytest.approx(100 * difference)
    assert gained.value == -lost.value
    assert 0 < lost.interval[0] <= lost.value <= lost.interval[1]
    assert lost.conditions["mcnemar_p"] == gained.conditions["mcnemar_p"] < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_paired(name: str) -> None:
    # Two models that differ on few rows: the interval of the difference is far narrower than either's own.
    references, baseline = rows(1000, 2, 0.6)
    candidate = baseline.copy()
    candidate[:10] = 1 - candidate[:10]
    low, high = quality.loss_against(name, candidate, baseline, references, 2, 0).interval
    alone = quality.quality(name, candidate, references, 2, 0, {}).interval
    assert high - low < 100 * (alone[1] - alone[0]) / 3


def test_equal_predictions_lose_nothing() -> None:
    references, predictions = rows(100, 2, 0.8)
    lost = quality.loss_against("accuracy", predictions, predictions, references, 2, 0)
    assert (lost.value, lost.interval, lost.conditions["mcnemar_p"]) == (0, (0, 0), 1)


def test_evaluates_metric_needs_no_hub_and_leaves_no_files() -> None:
    metric = quality.evaluate_metric("accuracy")
    assert metric.compute(predictions=[0, 1, 1], references=[0, 1, 0]) == {"accuracy": pytest.approx(2 / 3)}
    assert not Path(metric.data_dir).exists()


def test_every_metric_has_a_name_of_its_own() -> None:
    assert list(quality.METRICS) == [metric.name for metric in quality.ALL]


def test_an_unknown_metric_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"one of accuracy, f1, matthews_correlation, .*, got bleu"):
        quality.metric_named("bleu")


@pytest.mark.parametrize("count", [0, 2])
def test_predictions_and_references_must_match_and_exist(count: int) -> None:
    with pytest.raises(ValueError, match="as many predictions as references, one or more, got"):
        quality.score("accuracy", np.zeros(count, dtype=np.int64), np.zeros(2 * count, dtype=np.int64), 2)


def test_results_by_class_are_scikit_learns() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    generator = np.random.default_rng(0)
    references, predictions = generator.integers(0, 4, size=(2, 300))
    table = quality.per_class(predictions, references, ["a", "b", "c"])
    expected = precision_recall_fscore_support(references, predictions)
    assert [row["label"] for row in table] == ["a", "b", "c", "3"]
    for key, wanted in zip(("precision", "recall", "f1", "rows"), expected, strict=True):
        np.testing.assert_allclose([row[key] for row in table], wanted)
    assert all(row["recall_interval"][0] < row["recall"] < row["recall_interval"][1] for row in table)


def test_a_class_without_rows_has_no_recall_and_one_never_predicted_no_precision() -> None:
    never, absent = quality.per_class(np.array([1, 1]), np.array([0, 0]))
    assert (never["precision"], never["recall"], never["f1"]) == (None, 0.0, 0.0)
    assert (absent["precision"], absent["recall"], absent["recall_interval"]) == (0.0, None, None)


@pytest.mark.parametrize("metric", ROW_METRICS, ids=lambda metric: metric.name)
def test_a_metric_of_rows_scores_is_their_mean_with_the_interval_of_resampled_rows(metric: Metric) -> None:
    scores = np.random.default_rng(0).choice([0.0, 0.25, 2 / 3, 1.0], size=400)
    none = np.zeros(400, dtype=np.int64)
    measurement = quality.quality(metric.name, scores, none, 0, 0, {})
    picks = np.random.default_rng(1).integers(400, size=(2000, 400))
    assert measurement.value == pytest.approx(scores.mean())
    assert measurement.interval == pytest.approx(np.percentile(scores[picks].mean(1), [2.5, 97.5]), abs=0.01)


def test_the_loss_of_scores_is_paired_and_has_no_test_of_right_and_wrong_where_rows_are_neither() -> None:
    theirs = np.random.default_rng(0).random(300)
    ours, none = theirs - 0.02, np.zeros(300, dtype=np.int64)
    lost = quality.loss_against("squad_f1", ours, theirs, none, 0, 0)
    assert lost.value == pytest.approx(2.0) and lost.interval == pytest.approx((2.0, 2.0), abs=1e-6)
    assert "mcnemar_p" not in lost.conditions
    right = (theirs > 0.3).astype(float)
    assert quality.loss_against("exact_match", 1 - right, right, none, 0, 0).conditions["mcnemar_p"] < 0.05
