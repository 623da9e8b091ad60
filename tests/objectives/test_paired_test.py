"""How likely a loss is by chance: for every metric a paired test, by scipy's where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from objectives import quality, stats
from objectives.paired_test import DRAWS

NONE = np.zeros(60, dtype=np.int64)
drawn = np.random.default_rng(0)


def by_scipy(statistic: Any, ours: np.ndarray, theirs: np.ndarray) -> float:
    """scipy's test in which each row's pair of answers changes places or not."""
    from scipy.stats import permutation_test

    test = permutation_test(
        (ours, theirs), statistic, permutation_type="samples", n_resamples=4_999, vectorized=False, rng=3
    )
    return float(test.pvalue)


@pytest.mark.parametrize("name", ["squad_f1", "ndcg_at_10", "mrr_at_10", "recall_at_10"])
@pytest.mark.parametrize("less", [0.0, 0.02, 0.08])
def test_rows_with_scores_between_are_tested_as_scipy_tests_them(name: str, less: float) -> None:
    theirs = drawn.choice([0, 0.4, 0.5, 2 / 3, 1], 60)
    ours = np.clip(theirs - less * drawn.integers(0, 4, 60) + 0.1 * (drawn.random(60) < 0.2), 0, 1)
    lost = quality.loss_against(name, ours, theirs, NONE, 0, 0).conditions
    wanted = by_scipy(lambda x, y: float(np.mean(x) - np.mean(y)), ours, theirs)
    assert lost["p"] == pytest.approx(wanted, abs=0.04)
    assert lost["test"] == f"paired permutation test of {quality.metric_named(name).title}, 1,999 draws"
    assert "mcnemar_p" not in lost


@pytest.mark.parametrize("name", ["pearson", "spearman", "rmse", "r_squared"])
def test_metrics_that_are_no_mean_of_rows_are_tested_by_themselves(name: str) -> None:
    references = drawn.normal(size=60)
    theirs, ours = references + 0.5 * drawn.normal(size=60), references + 0.6 * drawn.normal(size=60)
    lost = quality.loss_against(name, ours, theirs, references, 0, 0).conditions

    def statistic(x: np.ndarray, y: np.ndarray) -> float:
        return quality.metric_named(name).compute(references, x, 0) - quality.metric_named(name).compute(
            references, y, 0
        )

    assert lost["p"] == pytest.approx(by_scipy(statistic, ours, theirs), abs=0.04)


@pytest.mark.parametrize("name", ["exact_match", "recall_at_1"])
def test_rows_that_are_right_or_wrong_are_tested_exactly(name: str) -> None:
    theirs = (drawn.random(60) < 0.8).astype(float)
    ours = np.where(drawn.random(60) < 0.2, 1 - theirs, theirs)
    lost = quality.loss_against(name, ours, theirs, NONE, 0, 0).conditions
    exact = stats.mcnemar_p(int((ours > theirs).sum()), int((theirs > ours).sum()))
    assert lost["p"] == lost["mcnemar_p"] == exact
    assert lost["test"] == "exact McNemar test of the rows that are right"
    assert by_scipy(lambda x, y: float(np.mean(x) - np.mean(y)), ours, theirs) == pytest.approx(exact, abs=0.04)


def test_accuracy_is_tested_exactly_and_f1_by_itself() -> None:
    references = drawn.integers(0, 3, 200)
    theirs, ours = (np.where(drawn.random(200) < share, references, drawn.integers(0, 3, 200)) for share in (0.9, 0.7))
    accuracy, f1 = (quality.loss_against(n, ours, theirs, references, 3, 0).conditions for n in ("accuracy", "f1"))
    assert accuracy["p"] == accuracy["mcnemar_p"] == f1["mcnemar_p"]
    assert f1["test"].startswith("paired permutation test of F1") and f1["p"] == pytest.approx(accuracy["p"], abs=0.02)


def test_models_that_are_equally_good_differ_as_often_as_chance_has_it() -> None:
    p = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        ours, theirs = rng.choice([0, 0.5, 2 / 3, 1], (2, 60))
        p.append(quality.loss_against("squad_f1", ours, theirs, NONE, 0, seed).conditions["p"])
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.1 and 0.4 < np.mean(p) < 0.6


@pytest.mark.parametrize("name", ["squad_f1", "perplexity", "spearman", "f1"])
def test_a_model_is_no_different_from_itself_and_nothing_is_below_one_draw(name: str) -> None:
    references = np.arange(60) % 3 + 1
    same = (np.arange(60) % 3).astype(np.int64 if name == "f1" else float)
    assert quality.loss_against(name, same, same, references, 4, 0).conditions["p"] == 1.0
    far = 0 * same if name == "squad_f1" else -same - 1 if name != "f1" else 3 - same
    assert quality.loss_against(name, far, same, references, 4, 0).conditions["p"] >= 1 / (DRAWS + 1)
