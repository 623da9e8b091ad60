"""The metric that CONTRIBUTING.md adds is one: named in a configuration, scored by row, reported as the others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from objectives import quality
from objectives.metric import Metric, mean_of_rows
from search.config.load import from_mapping
from search.config.source import Source
from search.errors import UserError
from search.space.choices import names
from search.tasks import similarity

from .test_similarity import encoded

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def added(guide: str) -> Metric:
    """The metric of the line that the guide adds to `objectives/row_metrics.py`."""
    found = re.search(r"(?m)^\+    mean_of_rows(\(.*\)),$", guide)
    assert found is not None
    return mean_of_rows(*ast.literal_eval(found[1]))


def cutoffs(guide: str, mark: str) -> dict[str, int]:
    """The table of `search/tasks/similarity.py` before ("-") and after ("+") the guide's change."""
    found = re.search(rf"(?m)^\{mark}CUTOFFS = (.*)$", guide)
    assert found is not None
    table: dict[str, int] = ast.literal_eval(found[1])
    return table


def test_the_metric_of_the_guide_is_accepted_and_scores_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = GUIDE.read_text()
    metric = added(guide)
    assert cutoffs(guide, "-") == similarity.CUTOFFS, "what the guide changes is what there is"
    (tmp_path / "train.csv").write_text("query,passage\na,b\n")
    config = {"task": "sentence-similarity", "model": {"name": "a/b"}, "data": {"train": "train.csv"}}
    where = Source("c.yaml", tmp_path)
    with pytest.raises(UserError, match=f'unknown metric "{metric.name}"'):
        from_mapping({**config, "metric": metric.name}, names(), where)
    monkeypatch.setattr(similarity, "CUTOFFS", cutoffs(guide, "+"))
    monkeypatch.setattr(similarity.SentenceSimilarity, "metrics", tuple(similarity.CUTOFFS))
    monkeypatch.setattr(quality, "METRICS", {**quality.METRICS, metric.name: metric})
    assert from_mapping({**config, "metric": metric.name}, names(), where).metric == metric.name
    rows = encoded()
    output = np.random.default_rng(0).normal(size=(len(rows.encoded), 8))
    scores = rows.predictions(metric.name, output)
    less, more = (rows.predictions(name, output) for name in ("recall_at_1", "recall_at_10"))
    assert ((less <= scores) & (scores <= more)).all() and less.mean() < scores.mean() < more.mean()
    assert quality.score(metric.name, scores, rows.references, 0) == pytest.approx(scores.mean())
    assert metric.loss_unit == "recall@5 points"
