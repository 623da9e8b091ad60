"""A results folder, and a model's folder, that were moved: nothing in a study depends on where they lie."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import command
import pytest
import yaml
from conftest import STUDY, Finished, State, state_of

from search.propose.equal_search import compared_part
from search.propose.study import read_outcomes
from search.store.paths import inside, located
from spaces.recipe import canonical

MORE = 7


@dataclass(frozen=True)
class Moved:
    """The finished search's results elsewhere, and what the same command made of them there, with one trial more."""

    folder: Path
    before: State
    ended: command.Ended
    left: tuple[str, ...]  # what appeared at the old place meanwhile

    @property
    def mlruns(self) -> Path:
        return self.folder / "mlruns"


@pytest.fixture(scope="module")
def moved(finished: Finished, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    folder = tmp_path_factory.mktemp("else where")  # and a name that addresses quote
    shutil.copytree(finished.mlruns, folder / "mlruns")
    shutil.copytree(tiny_bert, folder / "renamed")
    before = state_of(folder / "mlruns")
    hidden = finished.mlruns.with_name("hidden")
    finished.mlruns.rename(hidden)
    try:
        arguments = ("--trials", MORE, "--set", f"model.name={folder / 'renamed'}")
        ended = command.search("run", finished.config, *arguments, cwd=folder).succeeded()
        left = tuple(str(path) for path in finished.mlruns.rglob("*")) if finished.mlruns.exists() else ()
        yield Moved(folder, before, ended, left)
    finally:
        shutil.rmtree(finished.mlruns, ignore_errors=True)
        hidden.rename(finished.mlruns)


def test_a_search_goes_on_where_its_folder_was_moved_to_and_makes_nothing_again(moved: Moved) -> None:
    after = state_of(moved.mlruns)
    assert len(after.outcomes) == MORE
    assert after.outcomes[: len(moved.before.outcomes)] == moved.before.outcomes
    assert {name: after.entries[name] for name in moved.before.entries} == moved.before.entries
    stages = {name.split("/")[1] for name in after.entries.keys() - moved.before.entries.keys()}
    assert not stages & {"data", "shape", "teacher", "statistics", "outputs"}
    assert moved.left == ()


def test_its_models_are_exported_from_there(moved: Moved) -> None:
    command.search("export", STUDY, "--to", "copy", cwd=moved.folder).succeeded()
    models = list((moved.folder / "copy" / "models").iterdir())
    assert models and all((model / "reference.npz").is_file() for model in models if model.name in references(moved))


def references(moved: Moved) -> list[str]:
    """Numbers of the trials whose outputs the run recorded."""
    checks = read_outcomes(moved.mlruns, STUDY)[0]["about"]["checks"]
    assert checks and not [path for path in checks.values() if Path(path).is_absolute()]
    return list(checks)


def test_mlflow_finds_its_artifacts_there_and_writes_none_to_the_old_place(moved: Moved, finished: Finished) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{moved.mlruns / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None and experiment.artifact_location == (moved.mlruns / "artifacts").as_uri()
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 + MORE
    for run in runs:
        assert client.list_artifacts(run.info.run_id), run.info.run_name
    for logged in client.search_logged_models([experiment.experiment_id]):
        assert logged.artifact_location.startswith(moved.mlruns.as_uri())
    with closing(sqlite3.connect(moved.mlruns / "mlflow.db")) as database:
        assert finished.mlruns.as_uri() not in "\n".join(database.iterdump())


def test_neither_a_recipe_nor_an_outcome_holds_a_path(moved: Moved) -> None:
    for outcome in state_of(moved.mlruns).outcomes:
        assert "/" not in canonical(outcome.recipe.to_json())
        assert outcome.status != "complete" or (moved.mlruns / outcome.folder / "model.safetensors").is_file()
        assert not Path(outcome.folder).is_absolute()
    record = yaml.safe_load((moved.mlruns / "exports" / STUDY / "best-config.yaml").read_text())
    assert record["model"] == str(moved.folder / "renamed") == record["config"]["model"]["name"]
    assert record["recipe"]["base"] != record["model"] and record["revision"] == "main"


def test_paths_are_written_relative_to_the_results_folder() -> None:
    results = Path("/some/mlruns")
    assert inside(results, results / "cache" / "weights" / "1") == "cache/weights/1"
    assert located(Path("/other"), "cache/weights/1") == Path("/other/cache/weights/1")
    assert located(results, inside(results, Path("/elsewhere/1"))) == Path("/elsewhere/1")


def test_an_equal_search_is_one_of_equal_content_wherever_its_files_lie() -> None:
    one = {"study": "a", "model": {"name": "/here/bert"}, "data": {"train": "/here/train.csv"}, "seed": 0}
    other = {**one, "study": "b", "model": {"name": "/there/bert"}, "data": {"train": "/there/train.csv"}}
    assert compared_part(one) == compared_part(other) != compared_part({**one, "seed": 1})
