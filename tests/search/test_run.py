"""`python -m search run` on a tiny model: what it leaves on disk and in MLflow, and what running it again repeats."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import STUDY, Finished

from search.deliver.best_config import read_best_config, schema
from search.front.formatting import quantity
from search.store.hard_links import LINKED
from search.track.tracker import tracking_uri

EXPORTED = ("front.json", "front.html", "front.png", "best-config.yaml", "fastest.yaml", "most-accurate.yaml")
MODEL_FILES = ("config.json", "model.safetensors", "recipe.yaml", "reference.npz", "tokenizer.json")


def front_json(finished: Finished) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((finished.exports / "front.json").read_text())
    return data


def test_it_ends_with_the_picks_the_files_and_the_command_of_the_ui(finished: Finished) -> None:
    for run in finished.runs:
        for pick in ("fastest", "balanced", "most-accurate"):
            assert any(line.startswith(pick) for line in run.out.splitlines())
        assert str(finished.exports) in run.out
        assert f"mlflow ui --backend-store-uri {tracking_uri(finished.mlruns)}" in run.out
        assert run.err == ""


def test_the_uncompressed_model_is_measured_first_under_every_pair(finished: Finished) -> None:
    first = finished.states[0].outcomes[:3]
    assert [o.recipe.steps == () or o.recipe.step("bits") is not None for o in first] == [True] * 3
    assert {(o.recipe.runtime.name, bool(o.recipe.steps)) for o in first} == {
        ("eager", False),
        ("onnx", False),
        ("onnx", True),
    }


def test_every_trial_is_complete_and_the_teacher_has_learned(finished: Finished) -> None:
    outcomes = finished.states[-1].outcomes
    assert [o.status for o in outcomes] == ["complete"] * 6, [o.reason for o in outcomes]
    assert outcomes[0].measurements["accuracy"].value > 0.75


def test_the_front_file_fits_its_schema_and_has_every_trial(finished: Finished) -> None:
    data = front_json(finished)
    jsonschema.validate(data, schema("front"))
    assert [trial["number"] for trial in data["trials"]] == [o.number for o in finished.states[-1].outcomes]
    members = {member["number"] for member in data["members"]}
    assert members == {int(folder.name) for folder in finished.models()}
    assert set(data["picks"].values()) <= members


@pytest.mark.parametrize("name", [name for name in EXPORTED if name.endswith(".yaml")])
def test_best_config_files_fit_their_schema_and_name_a_member(finished: Finished, name: str) -> None:
    path = finished.exports / name
    jsonschema.validate(yaml.safe_load(path.read_text()), schema("best-config"))
    record = read_best_config(path)
    assert record.number in {int(folder.name) for folder in finished.models()}
    assert "accuracy" in record.held_out and record.measurements["latency_p50_ms"].conditions["sets"] == 3


def test_all_files_are_there_and_nothing_half_written(finished: Finished) -> None:
    for name in EXPORTED:
        assert (finished.exports / name).stat().st_size > 0
    for folder in finished.models():
        for name in MODEL_FILES:
            assert (folder / name).stat().st_size > 0
        assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".npy")]
    hidden = list(finished.exports.rglob(".*")) + list(finished.mlruns.glob("cache/*/.*"))
    assert hidden == []


def test_weights_and_graphs_are_on_disk_once_and_it_ends_with_the_disk_that_all_takes(finished: Finished) -> None:
    def large(folder: str) -> list[os.stat_result]:
        files = (path for path in (finished.mlruns / folder).rglob("*") if path.suffix in LINKED)
        return [path.lstat() for path in files if not path.is_symlink()]

    stored = {about.st_ino for about in large("cache")}
    exported, logged = large("exports"), large("artifacts")
    assert len(logged) >= len(exported) >= len(finished.models()) > 0
    assert {about.st_ino for about in (*exported, *logged)} <= stored
    [line] = [line for line in finished.runs[-1].out.splitlines() if line.startswith("disk: ")]
    assert f"all of {finished.mlruns} takes 0." in line and "python -m search cache --max-gb 0" in line


def test_the_same_command_again_repeats_nothing(finished: Finished) -> None:
    assert finished.states[1] == finished.states[0]
    assert "teacher ..." in finished.runs[0].out
    for stage in ("teacher ...", "recovery ...", "timing ...", "validation ..."):
        assert stage not in finished.runs[1].out


def test_more_trials_go_on_where_the_search_stopped(finished: Finished) -> None:
    _, before, after = finished.states
    assert {name: after.entries.get(name) for name in before.entries} == dict(before.entries)
    assert after.outcomes[:4] == before.outcomes
    numbers = [o.number for o in after.outcomes]
    assert len(numbers) == 6 and len(set(numbers)) == 6
    assert len({o.recipe.digest for o in after.outcomes}) == 6


class Tracked:
    """The MLflow store of a finished search."""

    def __init__(self, mlruns: Path) -> None:
        import mlflow

        self.client = mlflow.MlflowClient(tracking_uri(mlruns))
        self.experiment = self.client.get_experiment_by_name(STUDY)
        runs = self.client.search_runs([self.experiment.experiment_id])
        self.parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        self.trials = {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}


@pytest.fixture(scope="module")
def tracked(finished: Finished) -> Tracked:
    return Tracked(finished.mlruns)


def test_mlflow_has_one_parent_and_one_nested_run_a_trial(finished: Finished, tracked: Tracked) -> None:
    [parent] = tracked.parents
    assert parent.info.status == "FINISHED"
    assert set(tracked.trials) == {f"trial-{o.number}" for o in finished.states[-1].outcomes}
    for run in tracked.trials.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"


def test_mlflow_trials_have_the_params_metrics_and_tags_of_their_outcomes(finished: Finished, tracked: Tracked) -> None:
    members = {member["number"] for member in front_json(finished)["members"]}
    columns = {frozenset(run.data.params) for run in tracked.trials.values()}
    assert len(columns) == 1, "every trial has every column"
    assert {"distill.layers", "prune.neurons", "bits.precision", "runtime.name"} <= next(iter(columns))
    for outcome in finished.states[-1].outcomes:
        run = tracked.trials[f"trial-{outcome.number}"]
        assert run.data.params["runtime.name"] == outcome.recipe.runtime.name
        for name in ("accuracy", "size_mb", "params", "quality_loss"):
            assert run.data.metrics[name] == outcome.measurements[name].value
        tags = run.data.tags
        assert (tags["status"], tags["digest"]) == ("complete", outcome.recipe.digest)
        assert tags["on_front"] == ("true" if outcome.number in members else "false")
        assert (tags["reason"] == "") == (outcome.number in members)


def test_the_parent_holds_the_files_of_the_front(tracked: Tracked) -> None:
    [parent] = tracked.parents
    held = {artifact.path for artifact in tracked.client.list_artifacts(parent.info.run_id)}
    assert {*EXPORTED, "config.json", "environment.json"} <= held


def test_a_front_member_in_mlflow_answers_as_the_exported_one(finished: Finished, tracked: Tracked) -> None:
    import mlflow

    import search

    folder = finished.models()[0]
    model = tracked.trials[f"trial-{folder.name}"].data.tags["model_id"]
    mlflow.set_tracking_uri(tracking_uri(finished.mlruns))
    texts = ["a charming and funny film", "the plot is dull"]
    assert mlflow.pyfunc.load_model(f"models:/{model}").predict(texts) == search.load(folder)(texts)


def test_one_model_has_one_number_wherever_it_is_shown(finished: Finished, tracked: Tracked) -> None:
    """Clock times of the final campaign: table, last lines, page, picture, front.json, MLflow and best-config."""
    printed, page = finished.runs[-1].out, (finished.exports / "front.html").read_text()
    data = front_json(finished)
    trials = {trial["number"]: trial for trial in data["trials"]}
    assert data["members"] and data["quick_timings"] == []
    for member in data["members"]:
        number, measured = member["number"], member["measurements"]["latency_p50_ms"]
        assert measured["conditions"]["sets"] == 3 and "reference_ms" not in measured["conditions"]
        assert "reference_ms" in member["quick"]["latency_p50_ms"]["conditions"], "the loop's figure is beside it"
        text = quantity(measured["value"], "ms")
        record = read_best_config(finished.exports / "models" / str(number) / "recipe.yaml")
        assert record.measurements["latency_p50_ms"].to_json() == measured
        assert record.speedup == member["speedup"]
        metrics = tracked.trials[f"trial-{number}"].data.metrics
        assert metrics["latency_p50_ms"] == measured["value"] == trials[number]["values"]["latency_p50_ms"]
        assert metrics["speedup"] == member["measurements"]["speedup"]["value"]
        assert metrics["quick_latency_p50_ms"] == member["quick"]["latency_p50_ms"]["value"]
        [row] = [line for line in printed.splitlines() if line.startswith("\u2502") and line.split()[1] == str(number)]
        assert f" {text} " in row
        [tooltip] = re.findall(rf"<title>trial {number}: [^<]*</title>", page)
        assert f"latency {text}" in tooltip
        [cells] = re.findall(rf'<tr id="row-{number}".*?</tr>', page, re.DOTALL)
        assert f'data-value="{measured["value"]}">{text}<' in cells
    for name, number in data["picks"].items():
        text = quantity(trials[number]["values"]["latency_p50_ms"], "ms")
        [line] = [line for line in printed.splitlines() if line.startswith(name)]
        assert f"{text}  (" in line
        [card] = re.findall(rf'<div class="pick"><h3>{name.replace("-", " ")}</h3>.*?</div>', page)
        assert text in card


def test_the_front_is_a_front_by_the_figures_it_shows(finished: Finished) -> None:
    data = front_json(finished)
    points = {
        m["number"]: (m["measurements"]["latency_p50_ms"]["value"], -m["measurements"]["accuracy"]["value"])
        for m in data["members"]
    }
    for number, (ms, loss) in points.items():
        assert not [n for n, (x, y) in points.items() if n != number and x <= ms and y <= loss]
    assert all(trial["on_front"] or trial["reason"] for trial in data["trials"])


def test_all_latencies_of_a_finished_study_are_at_the_campaigns_speed(finished: Finished, tracked: Tracked) -> None:
    data = front_json(finished)
    [eager] = [t["values"]["latency_p50_ms"] for t in data["trials"] if t["number"] == data["baseline"]]
    members = {member["number"] for member in data["members"]} | {data["baseline"], data["best_uncompressed"]}
    converted = [t for t in data["trials"] if t["reason"].startswith("not timed again")]
    for trial in converted:
        assert trial["number"] not in members
        values = trial["values"]
        assert values["latency_p50_ms"] * values["speedup"] == pytest.approx(eager)
    for trial in data["trials"]:
        logged = tracked.trials[f"trial-{trial['number']}"].data.metrics["latency_p50_ms"]
        assert logged == trial["values"]["latency_p50_ms"]
