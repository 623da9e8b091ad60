"""Checks: a latency of now against that of a record, and the data of a record read without making anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from objectives.measurement import Measurement
from search import check, compose, isolate
from search.best_config import BestConfig
from search.check import held_against
from search.config import load
from search.front import LATENCY
from search.names import names
from search.store import Store
from spaces.axis import Context


def timed(ms: float, **conditions: object) -> Measurement:
    return Measurement(LATENCY, "ms", "lower", ms, (0.9 * ms, 1.1 * ms), 100, conditions)


def record(quick: Measurement, *final: Measurement) -> BestConfig:
    return cast(BestConfig, SimpleNamespace(measurements={LATENCY: quick}, final={m.objective: m for m in final}))


@pytest.mark.parametrize(("ms", "inside"), [(4.0, True), (4.3, True), (3.7, True), (2.0, False), (4.5, False)])
def test_a_record_is_compared_at_the_speed_that_the_machine_had_then(ms: float, inside: bool) -> None:
    # Counted as 2 ms, because the machine was half as fast as when the reference was measured.
    text, found = held_against(record(timed(9.0), timed(2.0, as_timed=4.0, reference_ms=10.0)), timed(ms))
    assert found == inside
    assert f"{ms:.2f} ms here, 4.00 ms in the record ({ms / 4:.2f}x" in text and "3.60 to 4.40" in text


def test_without_a_final_timing_the_quick_one_counts_as_it_is() -> None:
    text, found = held_against(record(timed(2.0)), timed(2.1, noisy="a busy machine"))
    assert found and "2.00 ms in the record (1.05x, inside" in text and text.endswith("; noisy: a busy machine")


def test_the_data_of_a_record_are_read_through_this_machines_results_folder_and_nothing_is_made(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []

    def here(function: Any, folder: Path, *arguments: Any, timeout_s: float | None, progress: Any) -> None:
        prepared.append(function.__name__)
        function(folder, *arguments, progress=progress)

    monkeypatch.setattr(isolate, "run", here)
    chosen, ours = tmp_path / "chosen by the record", tmp_path / "mlruns"
    read = load(config, [], names())
    record = cast(BestConfig, SimpleNamespace(config={**read.to_mapping(), "mlruns": str(chosen)}))
    with check._rows(record, Context(), ours) as rows:
        assert not isinstance(rows, str) and len(rows.split("validation")[1]) == 96
    assert list(tmp_path.iterdir()) == [] and prepared == ["describe_model", "prepare_data"]

    stage = compose.Stages(Store(ours / "cache"), lambda stage, done: None)
    compose.prepare_data(replace(read, mlruns=str(ours)), stage)
    with check._rows(record, Context(), ours) as rows:
        assert not isinstance(rows, str) and rows.data.is_relative_to(ours)
    assert prepared == ["describe_model", "prepare_data"] * 2 and list(tmp_path.iterdir()) == [ours]

    gone = {**record.config, "data": {**record.config["data"], "train": str(tmp_path / "train.csv")}}
    with check._rows(cast(BestConfig, SimpleNamespace(config=gone)), Context(), ours) as rows:
        assert isinstance(rows, str) and "train.csv" in rows
