"""A configuration is read once, means the same when written back, and says exactly what is wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.config.load import Names, from_mapping, load_config, results_folder
from search.config.schema import CacheConfig, RunConfig
from search.config.source import Source
from search.errors import UserError
from search.tasks.questions import QuestionData
from search.tasks.rows import LabelledData

NAMES = Names(
    axes={
        "distill": ("layers", "width"),
        "prune": ("heads", "neurons", "criterion"),
        "low_rank": ("rank",),
        "bits": ("precision",),
        "runtime": ("name",),
    },
    tasks=("classification",),
    metrics={"classification": ("accuracy", "f1", "matthews_correlation")},
    data={"classification": LabelledData, "question-answering": QuestionData},
    samplers=("known-latency", "tpe", "nsga2", "gp", "random"),
    objectives=("latency_p50_ms", "size_mb", "params"),
)
MINIMAL: dict[str, Any] = {
    "model": {"name": "model"},
    "task": "classification",
    "data": {"train": "train.csv"},
}


def write(project: Path, config: Any) -> Path:
    path = project / "config.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return path


def changed(**parts: Any) -> dict[str, Any]:
    return {**MINIMAL, **parts}


def test_three_keys_are_enough_and_the_file_names_the_study(project: Path) -> None:
    config = load_config(write(project, MINIMAL), [], NAMES)
    assert (config.study, config.metric, config.sampler) == ("config", "accuracy", "known-latency")
    assert config.model.name == str(project / "model")
    assert config.data.train == str(project / "train.csv")


@pytest.mark.parametrize("task", ["question-answering", "causal-lm"])
def test_windows_of_the_default_length_have_room_for_new_tokens(project: Path, task: str) -> None:
    from search.space.choices import names

    (project / "c.yaml").write_text(f"model: {{name: model}}\ntask: {task}\ndata: {{train: train.csv}}\n")

    def stride(*overrides: str) -> int:
        return load_config(project / "c.yaml", overrides, names()).data.doc_stride

    assert stride() == 32 and stride("data.max_length=16") == 4 and stride("data.max_length=384") == 128
    assert stride("data.doc_stride=128") == 128, "what is written stays, and is refused with the rows"


def test_keys_of_another_tasks_data_are_refused(project: Path) -> None:
    with pytest.raises(UserError, match=r"data.n_best: must be left out unless the task is question-answering, got 5$"):
        load_config(write(project, changed(data={"train": "train.csv", "n_best": 5})), [], NAMES)


def test_the_embedded_default_loads_and_its_files_are_there() -> None:
    config = load_config(None, [], NAMES)
    assert config.study == "movie-reviews"
    assert all(Path(file).is_file() for file in config.data.splits.values())


@pytest.mark.parametrize("overrides", [[], ["space.prune=off", "limits.max_loss=1", "data.limit=7", "study=x.y-z_0"]])
def test_a_configuration_written_back_means_the_same(project: Path, overrides: list[str]) -> None:
    config = load_config(write(project, MINIMAL), overrides, NAMES)
    assert from_mapping(config.to_mapping(), NAMES) == config
    assert from_mapping(json.loads(json.dumps(config.to_mapping())), NAMES) == config
    elsewhere = project / "copy" / "copy.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(yaml.safe_dump(config.to_mapping()))
    assert load_config(elsewhere, [], NAMES) == config


def test_the_embedded_default_written_back_names_no_folder_of_this_machine() -> None:
    config = load_config(None, [], NAMES)
    data = config.to_mapping()["data"]
    assert data["train"] == "package:search/quickstart/movie_reviews/train.parquet"
    assert from_mapping(config.to_mapping(), NAMES) == config


def test_paths_are_relative_to_who_wrote_them(project: Path) -> None:
    (Path.cwd() / "mine.csv").write_text("text,label\n")
    config = load_config(write(project, MINIMAL), ["data.validation=mine.csv"], NAMES)
    assert config.data.train == str(project / "train.csv")  # the file's
    assert config.data.validation == str(Path.cwd() / "mine.csv")  # the shell's
    assert config.mlruns == str(Path.cwd() / "mlruns")  # where the other commands look for it


def test_a_name_that_begins_as_a_home_does_is_a_name(project: Path) -> None:
    (project / "~backup.csv").write_text("text,label\n")
    written = changed(data={"train": "~backup.csv"}, mlruns="~nobody-here/mlruns")
    config = load_config(write(project, written), [], NAMES)
    assert config.data.train == str(project / "~backup.csv")
    assert config.mlruns == str(Path.cwd() / "~nobody-here" / "mlruns")


def test_a_hub_name_stays_a_name_unless_such_a_folder_exists(project: Path) -> None:
    assert load_config(write(project, changed(model={"name": "some/model"})), [], NAMES).model.name == "some/model"
    (project / "some").mkdir()
    (project / "model").rename(project / "some" / "model")
    config = load_config(write(project, changed(model={"name": "some/model"})), [], NAMES)
    assert config.model.name == str(project / "some" / "model")


def test_hub_data_have_split_names_not_paths(project: Path) -> None:
    data = {"name": "org/set", "validation": "dev"}
    assert load_config(write(project, changed(data=data)), [], NAMES).data.splits == {
        "train": "train",
        "validation": "dev",
    }


def test_an_override_is_yaml_and_wins(project: Path) -> None:
    overrides = [
        "teacher.learning_rate=1e-4",
        "space.prune.heads=[0.5, 1.0]",
        "limits={max_loss: 1}",
        "device=cpu",
    ]
    config = load_config(write(project, changed(teacher={"learning_rate": 5})), overrides, NAMES)
    assert config.teacher.learning_rate == 1e-4
    assert config.space == {"prune": {"heads": [0.5, 1.0]}}
    assert (config.limits.max_loss, config.device) == (1.0, "cpu")


def test_a_date_is_text(project: Path) -> None:
    assert load_config(write(project, yaml.safe_dump(MINIMAL) + "study: 2025-01-31\n"), [], NAMES).study == "2025-01-31"


def test_off_is_off_however_yaml_reads_it(project: Path) -> None:
    text = yaml.safe_dump(MINIMAL) + 'space: {distill: off, prune: "off", low_rank: {rank: off}, bits: on, runtime: }\n'
    space = load_config(write(project, text), [], NAMES).space
    assert space == {"distill": None, "prune": None, "low_rank": {"rank": "off"}}


def test_the_metric_may_be_called_by_its_name_among_the_objectives(project: Path) -> None:
    config = load_config(write(project, changed(metric="f1", objectives=["f1", "size_mb"])), [], NAMES)
    assert config.objectives == ("metric", "size_mb")


def test_what_determines_the_teacher_leaves_out_what_does_not(project: Path) -> None:
    path = write(project, MINIMAL)
    config = load_config(path, [], NAMES)
    assert load_config(path, ["budget.trials=3", "space.bits=off"], NAMES).teacher_parts(
        "m", "t"
    ) == config.teacher_parts("m", "t")
    for override in ("seed=1", "teacher.epochs=1", "model.head=mean", "data.max_length=16"):
        assert load_config(path, [override], NAMES).teacher_parts("m", "t") != config.teacher_parts("m", "t")


def test_a_study_is_resumed_with_another_budget_but_not_with_another_space(project: Path) -> None:
    path = write(project, MINIMAL)
    parts = load_config(path, [], NAMES).study_parts("m", "d")
    assert load_config(path, ["budget.trials=3", "sampler=gp"], NAMES).study_parts("m", "d") == parts
    assert load_config(path, ["space.bits=off"], NAMES).study_parts("m", "d") != parts
    assert load_config(path, [], NAMES).study_parts("m", "other") != parts


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml: no such configuration file"):
        load_config(tmp_path / "nowhere.yaml", [], NAMES)
    with pytest.raises(UserError, match=r"must be a readable UTF-8 YAML file"):
        load_config(tmp_path, [], NAMES)


def test_an_unwritable_results_folder_is_named(project: Path) -> None:
    (project / "file").write_text("")
    config = load_config(write(project, MINIMAL), [f"mlruns={project / 'file' / 'mlruns'}"], NAMES)
    with (
        pytest.raises(UserError, match=r"^--set mlruns: must be a folder that can be written, got .*file"),
        results_folder(config),
    ):
        pass


def test_a_results_folder_is_made_and_stays_unless_the_input_was_wrong(project: Path) -> None:
    config = load_config(write(project, MINIMAL), [f"mlruns={project / 'new' / 'mlruns'}"], NAMES)
    with suppress(UserError), results_folder(config) as results:
        (results / "cache" / "data").mkdir(parents=True)
        raise UserError
    assert not (project / "new").exists()
    with results_folder(config) as results:
        assert list(results.iterdir()) == []


def test_keys_are_placed_where_they_were_written() -> None:
    source = Source("a.yaml", Path.cwd(), {"data": "--set data", "budget.trials": "--trials"})
    assert source.where("data.train") == "--set data.train"
    assert source.where("budget.trials") == "--trials"
    assert source.where("budget.timeout") == "a.yaml: budget.timeout"
    assert source.where("") == "a.yaml"


def test_reading_a_configuration_needs_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "datasets", "evaluate", "mlflow", "optuna", "matplotlib")
    code = f"import search.config.load, search.tasks, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_configuration_is_frozen(project: Path) -> None:
    config: RunConfig = load_config(write(project, MINIMAL), [], NAMES)
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]


def test_an_objective_may_name_another_workload(project: Path) -> None:
    config = load_config(
        write(project, changed(objectives=["metric", "latency_p50_ms", "latency_p50_ms/b32-l128"])), [], NAMES
    )
    assert config.objectives[-1] == "latency_p50_ms/b32-l128"


@pytest.mark.parametrize("name", ["latency_p50_ms/32", "latency_p50_ms/", "size_mb/b32"])
def test_a_workload_that_is_none_or_changes_nothing_is_refused(project: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"objectives: a workload .*, got"):
        load_config(write(project, changed(objectives=["metric", name])), [], NAMES)


@pytest.mark.parametrize(
    ("override", "section"),
    [("recover.relation_weight=0.5", "recover"), ("workload.threads=2", "workload")],
)
def test_every_key_of_what_trials_share_makes_another_study(project: Path, override: str, section: str) -> None:
    path = write(project, MINIMAL)
    parts, other = (load_config(path, overrides, NAMES).study_parts("m", "d") for overrides in ([], [override]))
    assert {name for name in parts if parts[name] != other[name]} == {section}
    assert parts.keys() == other.keys()


def test_a_cache_limit_beyond_any_disk_is_none() -> None:
    assert CacheConfig(max_gb=1e308).bytes == sys.maxsize
