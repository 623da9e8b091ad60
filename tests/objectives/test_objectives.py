"""The registry, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from objectives import Measurement, Objective, all_objectives, comparable

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "sklearn", "scipy", "evaluate", "datasets")


def test_names_are_unique_and_explained() -> None:
    names = [objective.name for objective in all_objectives()]
    assert len(set(names)) == len(names)
    assert all(objective.description and objective.unit for objective in all_objectives())


@pytest.mark.parametrize("objective", all_objectives(), ids=lambda objective: objective.name)
def test_a_measurement_survives_json(objective: Objective) -> None:
    measurement = objective.measured(1.5, (1.25, 1.75), 10, {"device": "cpu", "noisy": ""})
    assert Measurement.from_json(json.loads(json.dumps(measurement.to_json()))) == measurement


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = f"import sys, objectives; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


LATENCY = Objective("latency_p50_ms", "ms", "lower", "time")
CONDITIONS = {"device": "cpu", "fingerprint": "ab", "threads": 2, "batch": 1, "length": 32, "noisy": ""}


def timed(**changes: object) -> Measurement:
    return LATENCY.counted(5.0, {**CONDITIONS, **changes})


def test_numbers_of_one_machine_and_workload_are_comparable_whatever_they_are() -> None:
    assert comparable(timed(), replace(timed(noisy="load"), value=9.0)) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fingerprint": "cd"}, "fingerprint: ab, and cd"),
        ({"threads": 4, "batch": 8}, "threads: 2, and 4; batch: 1, and 8"),
    ],
)
def test_what_makes_numbers_incomparable_is_said(changes: dict[str, object], reason: str) -> None:
    assert comparable(timed(), timed(**changes)) == reason


def test_what_only_one_of_them_knows_is_a_difference() -> None:
    unknown = LATENCY.counted(5.0, {k: v for k, v in CONDITIONS.items() if k != "fingerprint"})
    assert comparable(timed(), unknown) == "fingerprint: ab, and None"


def test_different_objectives_are_not_compared() -> None:
    assert comparable(timed(), replace(timed(), objective="latency_p90_ms")) != ""
