"""What is logged in one call is within MLflow's limits."""

from __future__ import annotations

import json
from pathlib import Path

from search.track.tracker import Tracker

from .. import factory
from .test_track import DEFAULTS, SEARCH, runs


def test_more_params_than_one_call_takes_are_logged_and_long_values_cut_with_a_note(store: Path) -> None:
    from mlflow.utils import validation

    from search.track import batch as track_batch

    assert track_batch.PARAMS_PER_CALL <= validation.MAX_PARAMS_TAGS_PER_BATCH
    assert track_batch.METRICS_PER_CALL <= validation.MAX_METRICS_PER_BATCH
    assert track_batch.PARAM_LENGTH <= validation.MAX_PARAM_VAL_LENGTH
    assert track_batch.TAG_LENGTH <= validation.MAX_TAG_VAL_LENGTH
    assert track_batch.BYTES_PER_CALL < validation.MAX_BATCH_LOG_REQUEST_SIZE
    limits = {f"latency_p50_ms/b{number}": float(number) for number in range(250)}
    config = {**factory.CONFIG, "study": "many", "limits": {"others": limits}, "notes": "x" * 7000}
    tracker = Tracker(store, "many", DEFAULTS)
    tracker.start(config, factory.HARDWARE, SEARCH)
    parent = runs(store, "many")["many"]
    assert {f"limits.others.{name}" for name in limits} <= parent.data.params.keys()
    assert parent.data.params["notes"] == "x" * 6000
    assert "notes" in parent.data.tags["cut"]


def test_a_batch_is_within_every_limit_of_a_call() -> None:
    from mlflow.entities import Param

    from search.track.batch import BYTES_PER_CALL, PARAM_LENGTH, call_batches

    wide = [Param(f"key{number}", "\u00e4" * PARAM_LENGTH) for number in range(90)]  # six bytes a letter in JSON
    calls = list(call_batches(wide, 100))
    assert [param for batch in calls for param in batch] == wide
    assert max(sum(len(json.dumps([p.key, p.value])) for p in batch) for batch in calls) <= BYTES_PER_CALL
    assert [len(batch) for batch in call_batches([Param("k", "v")] * 205, 100)] == [100, 100, 5]
