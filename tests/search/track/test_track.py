"""Tracking, against a real SQLite store: every trial once, whatever was killed; the user's own MLflow untouched."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.deliver.export import export
from search.deliver.written_files import sha256
from search.errors import UserError
from search.front.front import Front
from search.store.hard_links import LINKED
from search.track.log import requirements
from search.track.tracker import Tracker, tracking_uri, ui_command
from spaces.base import WEIGHTS

from .. import factory

DEFAULTS = {"distill.layers": 6, "prune.heads": 1.0, "bits.precision": "fp32"}
SEARCH = "0123456789abcdef"


def started(store: Path, experiment: str, digest: str = SEARCH) -> Tracker:
    tracker = Tracker(store, experiment, DEFAULTS)
    tracker.start({**factory.CONFIG, "study": experiment}, factory.HARDWARE, digest)
    return tracker


def observe(tracker: Tracker, front: Front, count: int) -> Front:
    """Log the first `count` trials one by one, as a search does."""
    partial = Front(front.targets)
    for outcome in front.outcomes[:count]:
        partial = partial.add(outcome)
        tracker.observe(outcome, partial)
    return partial


def client(store: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri(store))


def runs(store: Path, experiment: str) -> dict[str, Any]:
    """Active runs by name; a name twice is an error."""
    mlflow_client = client(store)
    place = mlflow_client.get_experiment_by_name(experiment)
    active = mlflow_client.search_runs([place.experiment_id])
    named = {run.info.run_name: run for run in active}
    assert len(named) == len(active)
    return named


def on_front(store: Path, experiment: str) -> set[int]:
    trial_runs = runs(store, experiment).items()
    return {int(n.removeprefix("trial-")) for n, run in trial_runs if run.data.tags.get("on_front") == "true"}


@pytest.fixture(scope="module")
def logged(store: Path, front: Front, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The runs of one search, from start to finish."""
    exports = tmp_path_factory.mktemp("exports")
    study = factory.study(front)
    export(front, study, exports)
    tracker = started(store, "whole")
    observe(tracker, front, len(front.outcomes))
    tracker.finish(front, study, exports)
    return runs(store, "whole")


def test_one_parent_and_one_nested_run_a_trial(logged: dict[str, Any], front: Front) -> None:
    trials = {name: run for name, run in logged.items() if name != "whole"}
    assert trials.keys() == {f"trial-{o.number}" for o in front.outcomes}
    parents = {run.data.tags["mlflow.parentRunId"] for run in trials.values()}
    assert parents == {logged["whole"].info.run_id}


def test_a_trial_has_the_promised_params_metrics_and_tags(logged: dict[str, Any], front: Front) -> None:
    for outcome in front.outcomes:
        run = logged[f"trial-{outcome.number}"]
        assert run.data.params == {k: str(v) for k, v in {**DEFAULTS, **outcome.recipe.params}.items()}
        for name, measured in outcome.measurements.items():
            assert run.data.metrics[name] == measured.value
        assert run.data.tags["status"] == outcome.status
        assert run.data.tags["reason"] == front.why_not(outcome)
        assert run.data.tags["digest"] == outcome.recipe.digest
        assert {"on_front", "baseline"} <= run.data.tags.keys()
        assert run.info.status == ("FAILED" if outcome.status == "failed" else "FINISHED")


def test_members_are_tagged_and_have_their_held_out_result(logged: dict[str, Any], front: Front, store: Path) -> None:
    assert on_front(store, "whole") == {o.number for o in front.members}
    for outcome in front.members:
        metrics = logged[f"trial-{outcome.number}"].data.metrics
        assert metrics["test_accuracy"] == pytest.approx(outcome.value("accuracy") - 0.006)


def test_the_parent_holds_the_front_and_the_environment(logged: dict[str, Any], store: Path) -> None:
    parent = logged["whole"]
    artifacts = {item.path for item in client(store).list_artifacts(parent.info.run_id)}
    promised = {"front.json", "front.html", "front.png", "best-config.yaml", "fastest.yaml", "most-accurate.yaml"}
    assert artifacts == promised | {"config.json", "environment.json"}
    assert parent.info.status == "FINISHED"
    assert parent.data.params["model.name"] == factory.CONFIG["model"]["name"]
    assert parent.data.params["task"] == "classification"
    assert "Balanced pick" in parent.data.tags["mlflow.note.content"]


def test_artifacts_lie_beside_the_database(store: Path, logged: dict[str, Any]) -> None:
    place = client(store).get_experiment_by_name("whole")
    assert place.artifact_location == (store / "artifacts").as_uri()
    assert (store / "artifacts" / logged["whole"].info.run_id / "artifacts" / "front.json").is_file()


def test_a_front_member_loads_as_an_mlflow_model_and_answers_strings(
    logged: dict[str, Any], front: Front, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas

    import search

    def load(folder: Path) -> Any:
        assert (folder / "recipe.yaml").is_file()
        return SimpleNamespace(answers=lambda texts: [{"label": text.upper(), "score": 1.0} for text in texts])

    monkeypatch.setattr(search, "load", load, raising=False)
    place = client(store).get_experiment_by_name("whole")
    models = client(store).search_logged_models([place.experiment_id])
    assert {m.name for m in models} == {f"trial-{o.number}" for o in front.members}
    assert {str(m.status) for m in models} == {"READY"}
    assert all(m.metrics for m in models)
    model = mlflow.pyfunc.load_model(models[0].artifact_location)
    expected = [{"label": "GOOD", "score": 1.0}, {"label": "BAD", "score": 1.0}]
    assert model.predict(["good", "bad"]) == expected
    assert model.predict(pandas.DataFrame({"text": ["good", "bad"]})) == expected
    assert not list(Path(models[0].artifact_location.removeprefix("file://")).rglob("*.pkl"))


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no links"])
def test_a_model_in_mlflow_is_the_exported_one_with_its_weights_and_graphs_on_disk_once(
    store: Path, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    tracker = started(store, f"links {links}")
    partial = observe(tracker, front, 3)
    export(partial, factory.study(partial), tmp_path)
    with monkeypatch.context() as patch:
        if not links:
            patch.setattr(os, "link", refused)
        tracker.finish(partial, factory.study(partial), tmp_path)
    place = client(store).get_experiment_by_name(f"links {links}")
    models = client(store).search_logged_models([place.experiment_id])
    assert {model.name for model in models} == {f"trial-{outcome.number}" for outcome in partial.members}
    for model in models:
        [record] = Path(model.artifact_location.removeprefix("file://")).glob("artifacts/*/recipe.yaml")
        exported, logged = tmp_path / "models" / model.name.removeprefix("trial-"), record.parent
        files = [path.relative_to(exported) for path in exported.rglob("*") if path.is_file()]
        assert set(files) == {path.relative_to(logged) for path in logged.rglob("*") if path.is_file()}
        assert any(file.suffix in LINKED for file in files)
        for file in files:
            assert (exported / file).read_bytes() == (logged / file).read_bytes()
            assert os.path.samefile(exported / file, logged / file) == (links and file.suffix in LINKED)


def test_the_end_of_a_search_renews_what_runs_say(store: Path, front: Front, tmp_path: Path) -> None:
    """The campaign's figures are the runs' own, and weights that were trained again are the ones that are logged."""
    tracker = started(store, "remeasured")
    observe(tracker, front, len(front.outcomes))
    decided = front.decided(factory.campaign(front), lambda outcome: ())
    study = factory.study(decided)
    export(decided, study, tmp_path)
    tracker.finish(decided, study, tmp_path)
    logged = runs(store, "remeasured")
    for outcome in decided.outcomes:
        metrics = logged[f"trial-{outcome.number}"].data.metrics
        assert all(metrics[name] == m.value for name, m in outcome.measurements.items())
        assert all(metrics[f"quick_{name}"] == m.value for name, m in outcome.quick.items())
    assert on_front(store, "remeasured") == {o.number for o in decided.members}

    other = decided.members[0]
    figures = {**other.measurements, "accuracy": factory.measurement("accuracy", 0.9, 0.01, "fraction", "higher")}
    folder = shutil.copytree(other.folder, tmp_path / "trained again")
    (folder / WEIGHTS).write_bytes(b"weights that were trained again")
    retrained = replace(other, measurements=figures, weights_sha256=sha256(folder / WEIGHTS), folder=str(folder))
    again = decided.replacing({other.number: retrained})
    before = models_of(store, "remeasured")
    export(again, study, tmp_path)
    tracker.finish(again, study, tmp_path)
    assert runs(store, "remeasured")[f"trial-{other.number}"].data.metrics["accuracy"] == 0.9
    after = models_of(store, "remeasured")
    assert before.keys() >= after.keys()
    assert {name for name in after if after[name] != before[name]} == {f"trial-{other.number}"}


def models_of(store: Path, experiment: str) -> dict[str, str]:
    """Ids of the logged models by name; a name twice is an error."""
    place = client(store).get_experiment_by_name(experiment)
    models = client(store).search_logged_models([place.experiment_id])
    assert len({m.name for m in models}) == len(models)
    return {m.name: m.model_id for m in models}


def test_tags_follow_the_front(store: Path, front: Front) -> None:
    tracker = started(store, "tags")
    partial = observe(tracker, front, 9)
    tracker.sync(partial)
    assert on_front(store, "tags") == {o.number for o in partial.members}
    for outcome in partial.outcomes:
        assert runs(store, "tags")[f"trial-{outcome.number}"].data.tags["reason"] == partial.why_not(outcome)


def test_a_killed_search_goes_on_in_the_same_parent_and_repeats_no_trial(store: Path, front: Front) -> None:
    first = started(store, "killed")
    observe(first, front, 6)
    assert runs(store, "killed")["killed"].info.status == "RUNNING", "nobody closed it"
    before = {name: run.info.run_id for name, run in runs(store, "killed").items()}

    again = started(store, "killed")
    assert again.run_id == first.run_id
    observe(again, front, 8)
    after = {name: run.info.run_id for name, run in runs(store, "killed").items()}
    assert before.items() <= after.items()
    assert len(after) == 1 + 8


def test_a_trial_that_was_cut_short_is_logged_again_whole(store: Path, front: Front) -> None:
    tracker = started(store, "cut")
    partial = observe(tracker, front, 3)
    place = client(store).get_experiment_by_name("cut").experiment_id
    tags = {"mlflow.parentRunId": tracker.run_id}
    client(store).create_run(place, tags=tags, run_name="trial-3")  # and then the power went
    again = started(store, "cut")
    again.sync(partial.add(front.outcomes[3]))
    run = runs(store, "cut")["trial-3"]
    assert run.info.status != "RUNNING"
    assert run.data.tags["digest"] == front.outcomes[3].recipe.digest


def test_trials_told_but_not_logged_are_logged_by_a_sync(store: Path, front: Front) -> None:
    tracker = started(store, "sync")
    tracker.sync(front)
    tracker.sync(front)
    assert len(runs(store, "sync")) == 1 + len(front.outcomes)
    assert on_front(store, "sync") == {o.number for o in front.members}


def test_another_search_of_the_same_study_gets_a_parent_of_its_own(store: Path) -> None:
    assert started(store, "two", "a" * 16).run_id != started(store, "two", "b" * 16).run_id


def test_a_larger_budget_is_no_other_search(store: Path) -> None:
    first = started(store, "budget")
    first.close("KILLED")
    again = Tracker(store, "budget")
    again.start({**factory.CONFIG, "budget": {"trials": 400}}, factory.HARDWARE, SEARCH)
    assert again.run_id == first.run_id


@pytest.mark.parametrize("status", ["FINISHED", "KILLED", "FAILED"])
def test_the_parent_ends_as_the_search_did(store: Path, front: Front, tmp_path: Path, status: Any) -> None:
    tracker = started(store, status)
    partial = observe(tracker, front, 2)
    tracker.finish(partial, factory.study(partial), tmp_path, status)
    assert runs(store, status)[status].info.status == status


def test_the_users_own_mlflow_state_stays(store: Path, front: Front) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    tracker = started(store, "state")
    observe(tracker, front, 2)
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None


def test_the_environment_names_the_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ui_command(store)[-1] == f"sqlite:///{store / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert tracking_uri(store) == "http://mlflow.example:5000"
    with pytest.raises(UserError, match=r"open that address in a browser"):
        ui_command(store)


def test_a_store_that_cannot_be_opened_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot be opened"):
        Tracker(tmp_path / "mlruns", "study")


def test_mlflow_is_imported_late() -> None:
    code = "import sys, search.track.tracker; sys.exit('mlflow' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_requirements_are_pinned_to_versions_an_index_has() -> None:
    lines = requirements()
    assert any(line.startswith("torch==") for line in lines)
    assert all("==" in line and "+" not in line for line in lines)


def test_a_renamed_trial_is_found_by_its_number(store: Path, front: Front) -> None:
    tracker = started(store, "renamed")
    partial = observe(tracker, front, 3)
    runs_before = {run.info.run_id for run in runs(store, "renamed").values()}
    client(store).update_run(runs(store, "renamed")["trial-1"].info.run_id, name="my favourite")
    client(store).update_run(runs(store, "renamed")["renamed"].info.run_id, name="the search")
    again = started(store, "renamed")
    again.sync(partial)
    by_name = runs(store, "renamed")
    assert {run.info.run_id for run in by_name.values()} == runs_before
    assert "my favourite" in by_name and "the search" in by_name


def test_a_model_that_a_full_disk_cut_short_leaves_nothing_and_is_logged_later(
    store: Path, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = factory.study(front)
    export(front, study, tmp_path)
    tracker = started(store, "full")
    observe(tracker, front, len(front.outcomes))
    models = store / "artifacts" / "models"
    before = {path for path in models.rglob("*") if path.is_file()} if models.is_dir() else set()

    def cut_short(self: Any, model_id: str, folder: str) -> None:
        log_whole(self, model_id, folder)
        raise OSError(28, "No space left on device")

    kind = type(client(store))
    log_whole = kind.log_model_artifacts
    with monkeypatch.context() as patch:
        patch.setattr(kind, "log_model_artifacts", cut_short)
        with pytest.raises(OSError, match="No space left"):
            tracker.finish(front, study, tmp_path)
    assert {path for path in models.rglob("*") if path.is_file()} == before
    assert models_of(store, "full") == {}
    tracker.finish(front, study, tmp_path)
    assert models_of(store, "full").keys() == {f"trial-{outcome.number}" for outcome in front.members}
