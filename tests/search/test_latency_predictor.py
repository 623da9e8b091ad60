"""The table of latencies of a search, which trials correct."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import command
import numpy as np
import pytest

from objectives.latency_table import LatencyTable
from objectives.measurement import Measurement
from search.front.outcome import LATENCY, Outcome
from search.measure.measurer import Measurer, Stopwatch
from search.prepare import runner
from search.prepare.prepared import Prepared
from search.propose.surrogate.latency_predictor import PROCESS_ERROR, LatencyPredictor, deployment_name, error_of
from search.space.configured import configured


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_data: Path) -> Prepared:
    folder = tmp_path_factory.mktemp("predictor")
    changes = {"model": {"name": str(tiny_bert)}, "teacher": {"epochs": 0.1}, "recover": {"epochs": 0}}
    path = command.write_config(tiny_data / "predictor.yaml", **changes)
    config = configured(path, 1, None, "predictor", folder / "mlruns", [])
    Path(config.mlruns).mkdir(parents=True)
    return runner.prepare(config, lambda stage, done: None)


@pytest.fixture
def measurer(prepared: Prepared) -> Measurer:
    return Measurer(prepared, lambda stage, done: None, lambda: 300.0, Stopwatch())


@pytest.fixture
def predictor(prepared: Prepared, measurer: Measurer, tmp_path: Path) -> LatencyPredictor:
    return LatencyPredictor(prepared, measurer, tmp_path)


def timed(predictor: LatencyPredictor, ms: float, **conditions: object) -> Measurement:
    about = {**predictor.conditions, "noisy": "", **conditions}
    return Measurement(LATENCY, "ms", "lower", ms, (0.98 * ms, 1.02 * ms), 100, about)


def outcome(prepared: Prepared, params: dict[str, object], latency: Measurement) -> Outcome:
    recipe = prepared.recipe({**prepared.space.off, **params})  # type: ignore[dict-item]
    return Outcome(0, recipe, "complete", measurements={LATENCY: latency})


def test_a_trial_corrects_what_is_predicted_of_its_like(predictor: LatencyPredictor, prepared: Prepared) -> None:
    for layers, ms in ((1, 3.0), (2, 5.0)):
        predictor.correct(outcome(prepared, {"distill.layers": layers}, timed(predictor, ms)))
    asked = [{"distill.layers": 1}, {"distill.layers": 2}, {"distill.layers": 2, "prune.neurons": 0.5}]
    log_ms, sd = predictor.predict([{**prepared.space.off, **params} for params in asked])
    assert np.exp(log_ms[:2]) == pytest.approx([3.0, 5.0], rel=2 * error_of(timed(predictor, 1.0)))
    assert log_ms[0] < log_ms[2] < log_ms[1] + 0.01 and sd[2] > sd[1]


def test_a_trial_told_again_teaches_nothing_new(predictor: LatencyPredictor, prepared: Prepared) -> None:
    for _ in range(3):
        predictor.correct(outcome(prepared, {}, timed(predictor, 5.0)))
    assert len(predictor.table.path.read_text().split("\n\n")) == 2  # its conditions, and one entry


def test_a_trial_of_another_machine_is_kept_apart(
    predictor: LatencyPredictor, prepared: Prepared, tmp_path: Path
) -> None:
    latency = timed(predictor, 5.0, threads=64)
    predictor.correct(outcome(prepared, {}, latency))
    assert predictor.table.deployments == ()
    assert LatencyTable(tmp_path, latency.conditions).deployments == ("eager/fp32",)


def test_another_workload_has_a_table_of_its_own(
    predictor: LatencyPredictor, prepared: Prepared, measurer: Measurer, tmp_path: Path
) -> None:
    other = LatencyPredictor(prepared, measurer, tmp_path, "b8")
    latency = timed(predictor, 5.0)
    trial = outcome(prepared, {}, latency)
    trial = replace(trial, measurements={LATENCY: latency, f"{LATENCY}/b8": timed(other, 20.0)})
    for table in (predictor, other):
        table.correct(trial)
    whole = [{**prepared.space.off}]
    assert np.exp([predictor.predict(whole)[0][0], other.predict(whole)[0][0]]) == pytest.approx([5.0, 20.0], rel=0.05)


def test_a_trial_without_a_latency_is_passed_over(predictor: LatencyPredictor, prepared: Prepared) -> None:
    predictor.correct(replace(outcome(prepared, {}, timed(predictor, 5.0)), measurements={}))
    assert predictor.table.deployments == ()


def test_the_error_of_a_time_holds_its_interval_and_what_processes_differ_by(predictor: LatencyPredictor) -> None:
    quiet, noisy = error_of(timed(predictor, 5.0)), error_of(timed(predictor, 5.0, noisy="another process"))
    assert PROCESS_ERROR < quiet == pytest.approx(np.hypot(0.02 / 1.96, PROCESS_ERROR)) and noisy > 2 * quiet


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({}, "eager/fp32"),
        (
            {"runtime.name": "onnx", "bits.precision": "int8", "bits.fp32_blocks": 0, "bits.embeddings": "as-is"},
            "onnx/int8",
        ),
        ({"runtime.name": "onnx", "bits.precision": "int8", "bits.fp32_blocks": 2}, "onnx/int8 fp32_blocks 2"),
        ({"runtime.name": "onnx", "bits.precision": "fp32", "bits.fp32_blocks": 2}, "onnx/fp32"),
        (
            {"runtime.name": "onnx", "bits.precision": "int4", "bits.int8_blocks": 8, "bits.head": "int8"},
            "onnx/int4 int8_blocks 8 head int8",
        ),
        ({"runtime.name": "onnx", "bits.precision": "int8", "bits.int8_blocks": 8}, "onnx/int8"),
        ({"bits.embeddings": "int8"}, "eager/fp32 embeddings int8"),
    ],
)
def test_a_pair_is_named_by_all_of_the_precision_that_a_time_depends_on(params: dict[str, object], name: str) -> None:
    assert deployment_name(params) == name  # type: ignore[arg-type]
