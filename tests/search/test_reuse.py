"""A second search of the same: nothing is trained or measured twice on the way, finalists are timed again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import search, write_config
from safetensors.torch import load_file, save_file

from search.deliver.read_study import read_study
from search.deliver.study_attributes import REFERENCES
from search.front.outcome import Outcome
from search.measure.cache import MEASURED_AT
from search.propose.study import attribute, read_outcomes, set_attribute


def entries(mlruns: Path, stage: str) -> dict[str, int]:
    """When each entry of a stage was written."""
    files = (mlruns / "cache" / stage).glob("*/entry.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_data: Path) -> Path:
    """Where a search has run: two baselines, and two trials that are trained."""
    folder = tmp_path_factory.mktemp("reuse")
    data = {"train": "train.csv", "validation": "validation.jsonl", "test": "test.parquet"}
    data = {part: str(tiny_data / name) for part, name in data.items()}
    settings = {"data": data, "space": {"bits": "off"}, "budget": {"trials": 4}}
    write_config(folder / "c.yaml", model={"name": str(tiny_bert)}, **settings)
    again(folder, "first")
    return folder


EQUAL = "an equal search was here"


def again(folder: Path, study: str, *more: str, equal: bool = False) -> list[Outcome]:
    printed = search("run", "c.yaml", "--study", study, *more, cwd=folder).succeeded()
    assert (EQUAL in printed.out + printed.err) == equal
    return read_outcomes(folder / "mlruns", study)[1]


def test_an_identical_search_trains_and_measures_nothing_on_the_way_and_times_finalists_again(folder: Path) -> None:
    # What was rejected comes last when it is gone through again: by then the front is there that was the reason.
    first = sorted(read_outcomes(folder / "mlruns", "first")[1], key=lambda o: o.status == "rejected")
    stages = ("teacher", "statistics", "outputs", "weights", "predictions", "measured")
    before = {stage: entries(folder / "mlruns", stage) for stage in stages}
    second = again(folder, "second", equal=True)
    assert {stage: entries(folder / "mlruns", stage) for stage in before} == before
    assert [o.recipe.digest for o in second] == [o.recipe.digest for o in first]
    for outcome, earlier in zip(second, first, strict=True):
        assert unscaled(outcome) == pytest.approx(unscaled(earlier))
        assert all(MEASURED_AT in m.conditions for m in outcome.measurements.values())
    final: dict[str, Any] = read_outcomes(folder / "mlruns", "second")[0]["about"]["final"]["measurements"]
    assert final and not [m for figures in final.values() for m in figures.values() if MEASURED_AT in m["conditions"]]


def unscaled(outcome: Outcome) -> dict[str, float]:
    """Its values, latencies as shares of the reference, which may have been measured again if it was noisy."""
    power = {"ms": -1, "rows/s": 1}
    return {
        n: m.value * m.conditions.get("reference_ms", 1.0) ** power.get(m.unit, 0)
        for n, m in outcome.measurements.items()
    }


def products(outcomes: list[Outcome]) -> list[float]:
    """Latency times speedup of each trial: what the baseline takes."""
    return [o.value("latency_p50_ms") * o.value("speedup") for o in outcomes if o.status == "complete"]


def speedups(outcomes: list[Outcome]) -> dict[str, float]:
    return {o.recipe.digest: o.value("speedup") for o in outcomes if o.status == "complete"}


def test_all_latencies_of_a_folder_are_counted_by_one_time_of_the_baseline(folder: Path) -> None:
    values = products(read_outcomes(folder / "mlruns", "first")[1])
    assert len(values) > 3 and values == pytest.approx([values[0]] * len(values))


def test_what_was_measured_before_is_counted_by_the_reference_of_now(folder: Path) -> None:
    first = read_outcomes(folder / "mlruns", "first")[1]
    [path] = (folder / "mlruns" / "latency").glob("reference-*.json")
    content = path.read_text()
    path.write_text(json.dumps({**json.loads(content), "ms": 1000.0, "interval": [990.0, 1010.0], "noisy": ""}))
    try:
        outcomes = again(folder, "counted", equal=True)
    finally:
        path.write_text(content)
    assert all(MEASURED_AT in m.conditions for o in outcomes for m in o.measurements.values())
    assert speedups(outcomes) == speedups(first)
    assert products(outcomes) == pytest.approx([1000.0] * len(speedups(first)))
    # The study keeps it, so that who shows the study counts its trials as the run did.
    mlruns = folder / "mlruns"
    assert attribute(mlruns, "counted", REFERENCES) == {"": [1000.0, 990.0, 1010.0]}
    set_attribute(mlruns, "counted", REFERENCES, {"": [500.0, 490.0, 510.0]})
    quick = [o.quick for o in read_study(mlruns, "counted")[0].outcomes if o.quick]
    counted = [q["latency_p50_ms"].value * q["speedup"].value for q in quick]
    assert counted and counted == pytest.approx([500.0] * len(counted))


def test_it_measures_again_where_that_is_asked_for(folder: Path) -> None:
    outcomes = again(folder, "fresh", "--trials", "3", "--set", "measure.reuse=false")
    measured = [m for o in outcomes for m in o.measurements.values()]
    assert measured and not [m for m in measured if MEASURED_AT in m.conditions]


def test_a_search_with_another_sampler_is_a_search_of_its_own(folder: Path) -> None:
    assert len(again(folder, "drawn", "--trials", "3", "--set", "sampler=random")) == 3


def test_with_more_trials_it_goes_on_where_the_equal_one_ended(folder: Path) -> None:
    first = read_outcomes(folder / "mlruns", "first")[1]
    more = again(folder, "more", "--trials", "5", equal=True)
    assert len(more) == 5
    assert {o.recipe.digest for o in first} < {o.recipe.digest for o in more}


def test_a_run_out_of_time_keeps_what_an_earlier_one_measured_of_finalists(folder: Path) -> None:
    before = read_outcomes(folder / "mlruns", "second")[0]["about"]
    again(folder, "second", "--timeout", "1")
    after = read_outcomes(folder / "mlruns", "second")[0]["about"]
    assert after["final"] == before["final"] and before["final"]["measurements"]
    assert after["held_out"] == before["held_out"]
    models = [path for path in (folder / "mlruns" / "exports" / "second" / "models").iterdir() if path.is_dir()]
    assert models and all((model / "reference.npz").is_file() for model in models)


def made_again(folder: Path) -> None:
    """As when weights were evicted, and trained again on a device that does not repeat itself."""
    tensors = load_file(folder / "model.safetensors")
    [bias] = [name for name in tensors if name.endswith("classifier.bias")]
    other = torch.zeros_like(tensors[bias])
    other[0] = 0.5
    (folder / "model.safetensors").unlink()  # exports may have hard links to it
    save_file({**tensors, bias: tensors[bias] + other}, folder / "model.safetensors")
    np.save(folder / "reference.npy", np.load(folder / "reference.npy") + other.numpy())
    shutil.rmtree(folder / "onnx", ignore_errors=True)
    entry = json.loads((folder / "entry.json").read_text())
    for name in ("model.safetensors", "reference.npy"):
        content = (folder / name).read_bytes()
        entry["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
    (folder / "entry.json").write_text(json.dumps(entry))


def finalist(folder: Path, study: str) -> Outcome:
    """A compressed model that the study exported."""
    about, outcomes = read_outcomes(folder / "mlruns", study)
    finals = set(map(int, about["about"]["final"]["measurements"]))
    return next(o for o in outcomes if o.number in finals and o.recipe.compressed)


def test_another_search_measures_again_what_is_other_weights_now(folder: Path) -> None:
    entry = finalist(folder, "first").folder
    made_again(folder / "mlruns" / entry)
    outcomes = again(folder, "retrained", equal=True)  # its end is that every exported model does as its record says
    measured = [o for o in outcomes if o.status == "complete"]
    new = {o.number for o in measured if MEASURED_AT not in o.measurements["accuracy"].conditions}
    assert new == {o.number for o in measured if o.folder == entry} and new


def shown(folder: Path, study: str, number: int) -> dict[str, float]:
    """The values of a trial in front.json."""
    data = json.loads((folder / "mlruns" / "exports" / study / "front.json").read_text())
    values: dict[str, float] = next(trial["values"] for trial in data["trials"] if trial["number"] == number)
    return values


def logged(folder: Path, study: str, number: int) -> dict[str, float]:
    """Those of its run in MLflow."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    place = client.get_experiment_by_name(study).experiment_id
    [run] = client.search_runs([place], f"tags.number = '{number}'")
    return {name: value for name, value in run.data.metrics.items() if name in shown(folder, study, number)}


def test_a_search_that_goes_on_measures_members_again_that_are_other_weights_now(folder: Path) -> None:
    member = finalist(folder, "retrained")
    made_again(folder / "mlruns" / member.folder)
    again(folder, "retrained")
    about = read_outcomes(folder / "mlruns", "retrained")[0]["about"]
    assert str(member.number) in about["remeasured"]
    assert logged(folder, "retrained", member.number) == shown(folder, "retrained", member.number)
    models = list((folder / "mlruns" / "exports" / "retrained" / "models").iterdir())
    for model in models:
        search("check", model, cwd=folder).succeeded()
    assert models


def test_a_run_out_of_time_measures_them_again_all_the_same(folder: Path) -> None:
    member = finalist(folder, "second")
    made_again(folder / "mlruns" / member.folder)
    again(folder, "second", "--timeout", "1")
    assert str(member.number) in read_outcomes(folder / "mlruns", "second")[0]["about"]["remeasured"]
