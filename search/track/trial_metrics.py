"""Metrics that are measured after a search, in the MLflow runs of its trials."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

from search.errors import UserError, disk_is_full, one_line
from search.track.batch import log_values
from search.track.mlflow_store import URI, load_mlflow, tracking_uri
from search.track.tracker import NUMBER


def log_in_trial(store: Path, study: str, number: int, digest: str, metrics: Mapping[str, float]) -> bool:
    """Log metrics in the run of a study's trial, which is known by its number and its recipe's digest.

    The store is the one in the folder `store`, or MLFLOW_TRACKING_URI. Returns whether it has such a run.

    Raises:
        UserError: the store cannot be opened.
    """
    if not os.environ.get(URI) and not (store / "mlflow.db").is_file():
        return False
    mlflow = load_mlflow()
    address = tracking_uri(store)
    try:
        client = mlflow.MlflowClient(address)
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            return False
        query = f"tags.{NUMBER} = '{number}' and tags.digest = '{digest}'"
        newest = ["attributes.start_time DESC"]
        runs = client.search_runs([experiment.experiment_id], query, order_by=newest, max_results=1)
        if not runs:
            return False
        log_values(client, runs[0].info.run_id, metrics, round(time.time() * 1000))
    except (mlflow.exceptions.MlflowException, OSError, sqlite3.Error) as error:
        if disk_is_full(error):
            raise
        raise UserError(f"mlruns: nothing can be logged in the MLflow store {address}: {one_line(error)}") from error
    return True
