"""What a finished search leaves says which task it was: front.json, best-config files, the page and MLflow."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import jsonschema
import yaml

from objectives.quality import metric_named
from search.deliver.best_config import schema


def check(mlruns: Path, study: str, task: str, metric: str) -> None:
    """Raise AssertionError where one of them has another name, or does not fit its schema."""
    exports = mlruns / "exports" / study
    front = json.loads((exports / "front.json").read_text(encoding="utf-8"))
    jsonschema.validate(front, schema("front"))
    assert (front["task"], front["metric"]) == (task, metric)
    best = yaml.safe_load((exports / "best-config.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(best, schema("best-config"))
    assert best["task"] == best["recipe"]["task"] == best["config"]["task"] == task
    page = (exports / "front.html").read_text(encoding="utf-8")
    assert f", {task}. " in page and f"loss ({metric_named(metric).loss_unit})" in page
    with closing(sqlite3.connect(mlruns / "mlflow.db")) as database:
        logged = set(database.execute("SELECT key, value FROM params WHERE key IN ('task', 'metric')"))
        measured = {name for (name,) in database.execute("SELECT DISTINCT key FROM latest_metrics")}
    assert {("task", task), ("metric", metric)} <= logged
    assert {metric, f"test_{metric}"} <= measured
