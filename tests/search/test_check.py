"""Checks: what is said of speed against a record, and the data of a record read without making anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from objectives.estimate import Estimate
from objectives.measurement import Measurement
from objectives.stats import over_processes
from search.config.load import load_config
from search.deliver import verify as check
from search.deliver.best_config import BestConfig
from search.deliver.latency_check import latency_line, ratio_deviation
from search.deliver.verify import CheckResult
from search.front.outcome import LATENCY, SPEEDUP
from search.prepare import isolate, runner
from search.space.choices import names
from search.store.store import Store
from spaces.runtime import Context

BUSY = ["other processes used 60% of the CPUs"]


def timed(ms: float) -> Measurement:
    return Measurement(LATENCY, "ms", "lower", ms, (0.9 * ms, 1.1 * ms), 100, {})


def record(speedup: Estimate | None) -> BestConfig:
    """The record of a study that optimises the time of a token; `speedup` is that of whole calls."""
    figures = {LATENCY: timed(2.0)}
    if speedup is not None:
        figures[SPEEDUP] = Measurement(SPEEDUP, "ratio", "higher", speedup.value, speedup.interval, 24, {})
    of_tokens = {"of": "tpot_ms", "over_eager_fp32": {"value": 3.0, "interval": [2.9, 3.1]}}
    return cast(BestConfig, SimpleNamespace(measurements=figures, speedup=of_tokens))


RECORDED = record(Estimate(5.0, 4.9, 5.1))


@pytest.mark.parametrize("ms", [2.0, 4.0, 17.2])
def test_a_machine_of_another_speed_does_not_make_a_model_slower(ms: float) -> None:
    line, comparison = latency_line(RECORDED, timed(ms), Estimate(5.02, 4.95, 5.1), [])
    assert comparison == "as recorded"
    assert "5.02x over the uncompressed model here, 5.00x in the record: as recorded" in line
    assert CheckResult(latency=comparison).verdict == "the model does what its record says"


@pytest.mark.parametrize("now", [0.58, 3.0, 8.6])
def test_another_ratio_is_said_and_the_model_does_not_do_what_its_record_says(now: float) -> None:
    line, comparison = latency_line(RECORDED, timed(2.0), Estimate(now, 0.98 * now, 1.02 * now), [])
    assert comparison == "different"
    assert f"{now / 5:.2f} times as fast" in line and "more than noise" in line
    assert "does what its record says" not in CheckResult(latency=comparison).verdict


def test_a_machine_that_is_too_busy_says_that_and_nothing_else() -> None:
    line, comparison = latency_line(RECORDED, timed(17.2), Estimate(8.6, 8.5, 8.7), BUSY)
    assert line == f"latency: not compared, because this machine is too busy to tell: {BUSY[0]}"
    assert comparison == "unknown"
    assert (
        CheckResult(latency=comparison).verdict
        == "the model gives the outputs that its record says; its speed was not compared"
    )


@pytest.mark.parametrize(("best", "ratio"), [(RECORDED, None), (record(None), Estimate(5.0, 4.9, 5.1))])
def test_without_the_uncompressed_model_clock_times_stand_side_by_side_without_a_verdict(
    best: BestConfig, ratio: Estimate | None
) -> None:
    line, comparison = latency_line(best, timed(17.2), ratio, [])
    assert comparison == "unknown" and "17.2 ms here, 2.00 ms in the record; not compared" in line
    assert not {"inside", "outside", "x "} & set(line.split())


def test_what_wide_intervals_allow_is_not_called_different() -> None:
    loose = Estimate(4.0, 2.5, 6.0)
    assert latency_line(RECORDED, timed(2.0), loose, [])[1] == "as recorded"


def test_a_line_after_an_export_is_as_rare_as_chance_makes_it() -> None:
    """Fresh processes differ by 3 %; three sets made the record, and one more is held against it."""
    rng, deviations = np.random.default_rng(0), 0
    for _ in range(1000):
        sets = 5 * np.exp(0.03 * rng.standard_normal(4))
        before, now = over_processes(sets[:3]), float(sets[3])
        deviations += bool(ratio_deviation(before, Estimate(now, now, now)))
    assert deviations < 60, "of 1000; 5 % are expected of intervals alone"


def test_a_model_that_lost_its_speed_in_the_export_is_said() -> None:
    deviation = ratio_deviation(Estimate(5.0, 4.9, 5.1), Estimate(2.5, 2.4, 2.6))
    assert deviation == "2.50x over the uncompressed model, 5.00x in the record"


def test_the_data_of_a_record_are_read_through_this_machines_results_folder_and_nothing_is_made(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []

    def here(function: Any, folder: Path, *arguments: Any, timeout_s: float | None, progress: Any) -> None:
        prepared.append(function.__name__)
        function(folder, *arguments, progress=progress)

    monkeypatch.setattr(isolate, "run", here)
    chosen, ours = tmp_path / "chosen by the record", tmp_path / "mlruns"
    read = load_config(config, [], names())
    record = cast(BestConfig, SimpleNamespace(config={**read.to_mapping(), "mlruns": str(chosen)}))
    with check.rows_of_record(record, Context(), ours) as rows:
        assert not isinstance(rows, str) and len(rows.split("validation")) == 96
    assert list(tmp_path.iterdir()) == [] and prepared == ["describe_model", "prepare_data"]

    stage = runner.Stages(Store(ours / "cache"), lambda stage, done: None)
    runner.data_stages(replace(read, mlruns=str(ours)), stage)
    with check.rows_of_record(record, Context(), ours) as rows:
        assert not isinstance(rows, str) and rows.data.is_relative_to(ours)
    assert prepared == ["describe_model", "prepare_data"] * 2 and list(tmp_path.iterdir()) == [ours]

    gone = {**record.config, "data": {**record.config["data"], "train": str(tmp_path / "train.csv")}}
    with check.rows_of_record(cast(BestConfig, SimpleNamespace(config=gone)), Context(), ours) as rows:
        assert isinstance(rows, str) and "train.csv" in rows


def test_a_record_that_does_not_say_how_long_it_was_timed_is_timed_by_the_defaults() -> None:
    from search.deliver.latency_check import plan_of

    default = plan_of({"measure": {"quick_s": 1.5, "final_s": 2.4, "reuse": True}})
    assert plan_of({}) == plan_of({"measure": {"reuse": False}}) == default != plan_of({"measure": {"final_s": 9}})
