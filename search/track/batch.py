"""Metrics and params for MLflow within its limits: in batches, and long values cut, with a note."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from search.track.mlflow_store import load_mlflow

#: MLflow's own limits (mlflow.utils.validation): characters of a value, entries and bytes of one call.
PARAM_LENGTH, TAG_LENGTH = 6000, 5000
PARAMS_PER_CALL, METRICS_PER_CALL, BYTES_PER_CALL = 100, 1000, 900_000
#: Tag of a run with params that were cut: their names.
CUT_PARAMS = "cut"


def log_values(
    client: Any,
    run: str,
    metrics: Mapping[str, float] | None = None,
    at_ms: int = 0,
    *,
    params: Mapping[str, Any] | None = None,
    step: int = 0,
    model: str | None = None,
) -> None:
    """Log metrics, at one time, and params of a run."""
    entities = load_mlflow().entities
    texts = {name: str(value) for name, value in (params or {}).items()}
    cut = sorted(name for name, text in texts.items() if len(text) > PARAM_LENGTH)
    entries = [entities.Param(name, text[:PARAM_LENGTH]) for name, text in texts.items()]
    for batch in call_batches(entries, PARAMS_PER_CALL):
        client.log_batch(run, params=batch)
    points = [entities.Metric(name, value, at_ms, step, model_id=model) for name, value in (metrics or {}).items()]
    for batch in call_batches(points, METRICS_PER_CALL):
        client.log_batch(run, metrics=batch)
    if cut:
        note = f"cut to MLflow's {PARAM_LENGTH} characters, whole in config.json or outcome.json: {', '.join(cut)}"
        client.set_tag(run, CUT_PARAMS, note[:TAG_LENGTH])


def call_batches(entries: Iterable[Any], most: int) -> Iterator[list[Any]]:
    """`entries` (with a `key` and a `value`) in lists that one call takes."""
    batch: list[Any] = []
    size = 0
    for entry in entries:
        bytes_ = len(json.dumps([entry.key, entry.value])) + 100  # beside them: times, steps and the names of fields
        if batch and (len(batch) == most or size + bytes_ > BYTES_PER_CALL):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += bytes_
    if batch:
        yield batch
