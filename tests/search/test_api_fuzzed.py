"""schemathesis over the API's own description: whatever it allows or forbids, no answer is a fault of the service."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from services import Counting, causal, fleet, running, service

from search.serve.service import CLASSIFYING

schemathesis = pytest.importorskip("schemathesis")
#: Seconds after which each operation is tried once more only.
SECONDS = 12.0
#: Cases of an operation that fit the description, and as many that break it.
EXAMPLES = 8
HEALTH = [
    hypothesis.HealthCheck.too_slow,
    hypothesis.HealthCheck.filter_too_much,
    hypothesis.HealthCheck.data_too_large,
]


def test_nothing_that_fits_or_breaks_the_description_is_a_fault(tmp_path: Path) -> None:
    labels = fleet(CLASSIFYING, lambda rows: [{"label": "a", "score": 1.0}] * len(rows))
    statuses: dict[str, set[int]] = {}
    with service(tmp_path, labels, causal(Counting()), extracting=True) as api, running(api) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) >= 18
        httpx.post(f"{url}/v1/passages", json={"text": "Herons stand in shallow water."}).raise_for_status()
        ends = time.monotonic() + SECONDS
        for operation in operations:
            for mode in schemathesis.GenerationMode:
                fuzz(operation, mode, statuses, ends)
    assert len(statuses) == len(operations) and all(statuses.values())
    assert {200, 404, 422} <= set().union(*statuses.values())


def fuzz(operation: Any, mode: Any, statuses: dict[str, set[int]], until: float) -> None:
    codes = statuses.setdefault(operation.label, set())

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=HEALTH
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        if codes and time.monotonic() > until:
            return
        response = case.call(timeout=20)
        codes.add(response.status_code)
        # A deadline of the request's own may be over before it is computed.
        own = response.status_code == 504 and "within_ms" in str(case.body)
        assert response.status_code < 500 or own, f"{operation.label}: {response.status_code} {response.text[:300]}"
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # an operation without input has none that is wrong
        one()
