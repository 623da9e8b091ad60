"""A configuration is read once, means the same when written back, and says exactly what is wrong with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from search.config.load import Names, from_mapping, load, results_folder
from search.config.schema import RunConfig
from search.config.source import Override, Source
from search.errors import UserError

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
    samplers=("known-latency", "tpe", "nsga2", "gp", "random"),
    objectives=("latency_p50_ms", "size_mb", "params"),
)
MINIMAL: dict[str, Any] = {
    "model": {"name": "model"},
    "task": "classification",
    "data": {"train": "train.csv"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a model and data, and a shell that stands somewhere else."""
    project, shell = tmp_path / "project", tmp_path / "shell"
    (project / "model").mkdir(parents=True)
    shell.mkdir()
    (project / "model" / "config.json").write_text('{"model_type": "bert"}')
    save_file({"weight": np.ones(2, dtype=np.float32)}, project / "model" / "model.safetensors")
    (project / "train.csv").write_text("text,label\nfine,1\nbad,0\n")
    monkeypatch.chdir(shell)
    return project


def write(folder: Path, config: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return path


def changed(**parts: Any) -> dict[str, Any]:
    return {**MINIMAL, **parts}


def test_three_keys_are_enough_and_the_file_names_the_study(folder: Path) -> None:
    config = load(write(folder, MINIMAL), [], NAMES)
    assert (config.study, config.metric, config.sampler) == ("config", "accuracy", "known-latency")
    assert config.model.name == str(folder / "model")
    assert config.data.train == str(folder / "train.csv")


def test_the_embedded_default_loads_and_its_files_are_there() -> None:
    config = load(None, [], NAMES)
    assert config.study == "movie-reviews"
    assert all(Path(file).is_file() for file in config.data.splits.values())


@pytest.mark.parametrize("overrides", [[], ["space.prune=off", "limits.max_loss=1", "data.limit=7", "study=x.y-z_0"]])
def test_a_configuration_written_back_means_the_same(folder: Path, overrides: list[str]) -> None:
    config = load(write(folder, MINIMAL), overrides, NAMES)
    assert from_mapping(config.to_mapping(), NAMES) == config
    assert from_mapping(json.loads(json.dumps(config.to_mapping())), NAMES) == config
    elsewhere = folder / "copy" / "copy.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(yaml.safe_dump(config.to_mapping()))
    assert load(elsewhere, [], NAMES) == config


def test_the_embedded_default_written_back_names_no_folder_of_this_machine() -> None:
    config = load(None, [], NAMES)
    data = config.to_mapping()["data"]
    assert data["train"] == "package:search/quickstart/movie_reviews/train.parquet"
    assert from_mapping(config.to_mapping(), NAMES) == config


def test_paths_are_relative_to_who_wrote_them(folder: Path) -> None:
    (Path.cwd() / "mine.csv").write_text("text,label\n")
    config = load(write(folder, MINIMAL), ["data.validation=mine.csv"], NAMES)
    assert config.data.train == str(folder / "train.csv")  # the file's
    assert config.data.validation == str(Path.cwd() / "mine.csv")  # the shell's
    assert config.mlruns == str(Path.cwd() / "mlruns")  # where the other commands look for it


def test_a_hub_name_stays_a_name_unless_such_a_folder_exists(folder: Path) -> None:
    assert load(write(folder, changed(model={"name": "some/model"})), [], NAMES).model.name == "some/model"
    (folder / "some").mkdir()
    (folder / "model").rename(folder / "some" / "model")
    config = load(write(folder, changed(model={"name": "some/model"})), [], NAMES)
    assert config.model.name == str(folder / "some" / "model")


def test_hub_data_have_split_names_not_paths(folder: Path) -> None:
    data = {"name": "org/set", "validation": "dev"}
    assert load(write(folder, changed(data=data)), [], NAMES).data.splits == {
        "train": "train",
        "validation": "dev",
    }


def test_an_override_is_yaml_and_wins(folder: Path) -> None:
    overrides = [
        "teacher.learning_rate=1e-4",
        "space.prune.heads=[0.5, 1.0]",
        "limits={max_loss: 1}",
        "device=cpu",
    ]
    config = load(write(folder, changed(teacher={"learning_rate": 5})), overrides, NAMES)
    assert config.teacher.learning_rate == 1e-4
    assert config.space == {"prune": {"heads": [0.5, 1.0]}}
    assert (config.limits.max_loss, config.device) == (1.0, "cpu")


def test_a_date_is_text(folder: Path) -> None:
    assert load(write(folder, yaml.safe_dump(MINIMAL) + "study: 2025-01-31\n"), [], NAMES).study == "2025-01-31"


def test_off_is_off_however_yaml_reads_it(folder: Path) -> None:
    text = yaml.safe_dump(MINIMAL) + 'space: {distill: off, prune: "off", low_rank: {rank: off}, bits: on, runtime: }\n'
    space = load(write(folder, text), [], NAMES).space
    assert space == {"distill": None, "prune": None, "low_rank": {"rank": "off"}}


def test_the_metric_may_be_called_by_its_name_among_the_objectives(folder: Path) -> None:
    config = load(write(folder, changed(metric="f1", objectives=["f1", "size_mb"])), [], NAMES)
    assert config.objectives == ("metric", "size_mb")


def test_what_determines_the_teacher_leaves_out_what_does_not(folder: Path) -> None:
    path = write(folder, MINIMAL)
    config = load(path, [], NAMES)
    assert load(path, ["budget.trials=3", "space.bits=off"], NAMES).teacher_parts("m", "t") == config.teacher_parts(
        "m", "t"
    )
    for override in ("seed=1", "teacher.epochs=1", "model.head=mean", "data.max_length=16"):
        assert load(path, [override], NAMES).teacher_parts("m", "t") != config.teacher_parts("m", "t")


def test_a_study_is_resumed_with_another_budget_but_not_with_another_space(folder: Path) -> None:
    path = write(folder, MINIMAL)
    parts = load(path, [], NAMES).study_parts("m", "d")
    assert load(path, ["budget.trials=3", "sampler=gp"], NAMES).study_parts("m", "d") == parts
    assert load(path, ["space.bits=off"], NAMES).study_parts("m", "d") != parts
    assert load(path, [], NAMES).study_parts("m", "other") != parts


WRONG: list[tuple[dict[str, Any] | str, str]] = [
    (changed(trails=1), r"config.yaml: trails: unknown key"),
    (changed(source="here"), r"config.yaml: source: unknown key; did you mean .measure."),
    ({**MINIMAL, 4: 5}, r"config.yaml: 4: unknown key"),
    (changed(teacher={4: 5}), r"config.yaml: teacher.4: unknown key"),
    (changed(limits={"others": {4: 5}}), r'config.yaml: limits.others.4: unknown objective "4"'),
    (changed(sampelr="gp"), r'sampelr: unknown key; did you mean "sampler"\?'),
    (changed(trials=3), r'trials: unknown key; did you mean "budget.trials"\?'),
    (changed(teacher={"epoch": 1}), r'teacher.epoch: unknown key; did you mean "teacher.epochs"\?'),
    (changed(teacher={"epochs": "two"}), r'teacher.epochs: must be a number, at least 0, got "two"'),
    (changed(teacher={"batch": 0}), r"teacher.batch: must be a whole number, at least 1, got 0"),
    (changed(teacher={"batch": 8.5}), r"teacher.batch: must be a whole number, at least 1, got 8.5"),
    (changed(teacher={"batch": True}), r"teacher.batch: must be a whole number, at least 1, got true"),
    (changed(teacher=3), r"teacher: must be a mapping of epochs, batch, .*, got 3"),
    (changed(seed=None), r"seed: must be a whole number, between 0 and .*, got null"),
    (changed(study="../up"), r"study: must be text, made of letters, .*, got \"../up\""),
    (
        changed(limits={"min_accuracy": 83}),
        r"limits.min_accuracy: must be a number, between 0 and 1 or null, got 83",
    ),
    (
        changed(limits={"others": {"size_md": 5}}),
        r'limits.others.size_md: unknown objective .*; did you mean "size_mb"\?',
    ),
    (changed(limits={"others": {"size_mb": "big"}}), r'limits.others.size_mb: must be a number, got "big"'),
    (changed(limits={"others": {"size_mb/b8": 5}}), r"limits.others.size_mb/b8: a workload can be named for"),
    (changed(workload={"threads": 0}), r"workload.threads: must be a whole number, at least 1 or null, got 0"),
    (changed(cache={"max_gb": 0}), r"cache.max_gb: must be a number, above 0 or null, got 0"),
    (changed(device="gpu"), r'device: must be "auto" or "cpu" or "cuda", got "gpu"'),
    (changed(workload={"length": "long"}), r'workload.length: .* or "data", got "long"'),
    (changed(metric="matthews"), r'unknown metric "matthews" \(valid: accuracy, f1, matthews_correlation\)'),
    (changed(task="clasification"), r'unknown task "clasification"; did you mean "classification"\?'),
    (changed(metric="acuracy"), r'unknown metric "acuracy"; did you mean "accuracy"\?'),
    (changed(economy={"keep": 1.5}), r"economy.keep: must be a number.*, got 1.5"),
    (changed(sampler="tpee"), r'unknown sampler "tpee"; did you mean "tpe"\?'),
    (changed(objectives=["metric", "latency_ms"]), r'unknown objective .*; did you mean "latency_p50_ms"\?'),
    (changed(objectives=["metric", "accuracy"]), r"objectives: must be at least two different ones"),
    (changed(space={"prunning": None}), r'space.prunning: unknown axis "prunning"; did you mean "prune"\?'),
    (changed(space={"prune": {"head": 1}}), r'space.prune.head: unknown knob .*; did you mean "heads"\?'),
    (
        changed(space={"prune": 0.5}),
        r"space.prune: must be off, or a mapping of its knobs \(heads, .*\), got 0.5",
    ),
    (changed(space={"prune": {"heads": []}}), r"space.prune.heads: must be a list with at least one value"),
    (
        changed(space={"prune": {"heads": {"lo": 1}}}),
        r'space.prune.heads.lo: unknown key of a range; did you mean "low"',
    ),
    (changed(space=[1]), r"space: must be a mapping of axes"),
    ({"model": {}, "task": "classification"}, r"config.yaml: model.name: missing"),
    ({"task": "classification", "data": {"train": "train.csv"}}, r"config.yaml: model.name: missing"),
    ({"model": {"name": "model"}, "task": "classification"}, r"config.yaml: data.train: missing"),
    ({"model": {"name": "model"}, "data": {"train": "train.csv"}}, r"config.yaml: task: missing"),
    (
        changed(data={"train": "trian.csv"}),
        r"data.train: no such file: .*trian.csv \(in that folder: train.csv\)",
    ),
    (changed(data={"train": "model"}), r"data.train: must be a file ending in .csv or .*, got \"model\""),
    (
        changed(data={"train": "train.csv", "test": "train.csv"}),
        r"data.test: must be other rows than data.train",
    ),
    (changed(data={"train": "train.csv", "config": "x"}), r"data.config: must be left out unless data.name"),
    (
        changed(data={"train": "train.csv", "encoding": "utf-9"}),
        r'data.encoding: must be text, .*an encoding that Python knows, .* or null, got "utf-9"',
    ),
    (changed(data={"train": "train.csv", "encoding": "base64"}), r"data.encoding: must be .*, got \"base64\""),
    (changed(data={"train": "train.csv", "encoding": 1252}), r"data.encoding: must be .*, got 1252"),
    (changed(data={"train": "train.csv", "delimiter": ", "}), r'data.delimiter: must be .*one character.*, got ", "'),
    (changed(data={"train": "train.csv", "delimiter": '"'}), r"data.delimiter: must be .*one character"),
    (changed(data={"name": "a/set", "encoding": "cp1252"}), r"data.encoding: must be left out of hub data"),
    (changed(data={"train": "train.csv", "label_names": [True]}), r"data.label_names: must be a list"),
    (changed(data={"name": "train.csv"}), r"data.name: must be a hub name; a file goes to data.train"),
    ("model: {name: model}\nmodel: {name: other}\n", r'config.yaml, line 2: .* key "model" is there twice'),
    ("model: {name: model\ntask: x\n", r"config.yaml, line \d: not valid YAML"),
    ("- a\n", r"config.yaml: must be a mapping with at least model, task and data"),
    ("", r"config.yaml: must be a mapping .*, got an empty file"),
]


@pytest.mark.parametrize(("config", "message"), WRONG)
def test_a_mistake_is_told_with_file_key_rule_and_value(folder: Path, config: Any, message: str) -> None:
    path = write(folder, config)
    with pytest.raises(UserError) as caught:
        load(path, [], NAMES)
    text = str(caught.value)
    assert re.search(message, text), text
    assert str(path) in text
    assert text.count("\n") <= 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.epochs", r'--set "teacher.epochs": must be key=value'),
        ("=3", r'--set "=3": must be key=value'),
        ("teacher.epochs=[", r"--set teacher.epochs, line 1: not valid YAML"),
        ("teacher.epochs=many", r'^--set teacher.epochs: must be a number, at least 0, got "many"'),
        ("teacher={epoch: 1}", r'^--set teacher.epoch: unknown key; did you mean "teacher.epochs"\?'),
        ("task.name=x", r"--set task.name: unknown key; task has no keys in it"),
        ("data.train=none.csv", r"^--set data.train: no such file"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_as_one(folder: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(write(folder, MINIMAL), [override], NAMES)


def test_a_flag_is_named_as_the_user_wrote_it(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^--trials: must be a whole number, at least 1, got 0$"):
        load(write(folder, MINIMAL), [Override("budget.trials", 0, "--trials")], NAMES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml: no such configuration file"):
        load(tmp_path / "nowhere.yaml", [], NAMES)
    with pytest.raises(UserError, match=r"must be a readable UTF-8 YAML file"):
        load(tmp_path, [], NAMES)


def test_an_unwritable_results_folder_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    config = load(write(folder, MINIMAL), [f"mlruns={folder / 'file' / 'mlruns'}"], NAMES)
    with (
        pytest.raises(UserError, match=r"^--set mlruns: must be a folder that can be written, got .*file"),
        results_folder(config),
    ):
        pass


def test_a_results_folder_is_made_and_stays_unless_the_input_was_wrong(folder: Path) -> None:
    config = load(write(folder, MINIMAL), [f"mlruns={folder / 'new' / 'mlruns'}"], NAMES)
    with suppress(UserError), results_folder(config) as made:
        (made / "cache" / "data").mkdir(parents=True)
        raise UserError
    assert not (folder / "new").exists()
    with results_folder(config) as made:
        assert list(made.iterdir()) == []


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


def test_a_configuration_is_frozen(folder: Path) -> None:
    config: RunConfig = load(write(folder, MINIMAL), [], NAMES)
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]


def test_an_objective_may_name_another_workload(folder: Path) -> None:
    config = load(write(folder, changed(objectives=["metric", "latency_p50_ms", "latency_p50_ms/b32-l128"])), [], NAMES)
    assert config.objectives[-1] == "latency_p50_ms/b32-l128"


@pytest.mark.parametrize("name", ["latency_p50_ms/32", "latency_p50_ms/", "size_mb/b32"])
def test_a_workload_that_is_none_or_changes_nothing_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"objectives: a workload .*, got"):
        load(write(folder, changed(objectives=["metric", name])), [], NAMES)


@pytest.mark.parametrize(
    ("override", "section"),
    [("recover.relation_weight=0.5", "recover"), ("workload.threads=2", "workload")],
)
def test_every_key_of_what_trials_share_makes_another_study(folder: Path, override: str, section: str) -> None:
    path = write(folder, MINIMAL)
    parts, other = (load(path, said, NAMES).study_parts("m", "d") for said in ([], [override]))
    assert {name for name in parts if parts[name] != other[name]} == {section}
    assert parts.keys() == other.keys()


# --- YAML as a person expects it ------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["no", "off", "on", "yes", "No", "null-ish", "007", "1:30", "2025-01-31", "="])
def test_a_bare_word_where_text_is_wanted_is_that_text(folder: Path, word: str) -> None:
    text = yaml.safe_dump({k: v for k, v in MINIMAL.items() if k != "data"})
    data = f"data: {{train: train.csv, text: {word}, label: {word}, label_names: [{word}, other]}}\n"
    made = load(write(folder, text + data), [f"data.text_pair={word}"], NAMES).data
    assert (made.text, made.label, made.label_names, made.text_pair) == (word, word, (word, "other"), word)


@pytest.mark.parametrize(
    ("word", "meant"), [("on", True), ("Yes", True), ("true", True), ("off", False), ("no", False)]
)
def test_a_bare_word_that_switches_is_true_or_false_where_that_is_wanted(folder: Path, word: str, meant: bool) -> None:
    path = write(folder, yaml.safe_dump(MINIMAL) + f"measure: {{reuse: {word}}}\n")
    config = load(path, [f"teacher.freeze_embeddings={word}", f"space.prune={word}"], NAMES)
    assert (config.measure.reuse, config.teacher.freeze_embeddings, config.space) == (
        meant,
        meant,
        {} if meant else {"prune": None},
    )


@pytest.mark.parametrize("word", ["1", "y", "maybe", '"true"'])
def test_a_switch_takes_no_other_word(folder: Path, word: str) -> None:
    with pytest.raises(UserError, match=r"^--set measure.reuse: must be true or false, got "):
        load(write(folder, MINIMAL), [f"measure.reuse={word}"], NAMES)


def test_an_axis_that_is_off_is_opened_by_a_knob_of_it(folder: Path) -> None:
    path = write(folder, yaml.safe_dump(MINIMAL) + "space: {prune: off}\n")
    assert load(path, ["space.prune.heads=0.5"], NAMES).space == {"prune": {"heads": 0.5}}


@pytest.mark.parametrize(
    ("text", "number"), [("1e-4", 1e-4), ("1E4", 1e4), ("1.5e+2", 150.0), (".5", 0.5), ("+3", 3.0), ("2.", 2.0)]
)
def test_a_number_is_a_number_however_it_is_written(folder: Path, text: str, number: float) -> None:
    made = load(write(folder, yaml.safe_dump(MINIMAL) + f"teacher: {{epochs: {text}}}\n"), [], NAMES).teacher.epochs
    assert made == number and isinstance(made, float)


@pytest.mark.parametrize("text", ["010", "1:30", ".inf", ".nan", "1e-4x", '"3"', "yes"])
def test_what_reads_as_a_number_to_a_machine_alone_is_none(folder: Path, text: str) -> None:
    for key in ("teacher.epochs", "budget.trials", "limits.others.size_mb"):
        with pytest.raises(UserError, match=rf"^--set {key}: must be a (whole )?number.*, got "):
            load(write(folder, MINIMAL), [f"{key}={text}"], NAMES)


@pytest.mark.parametrize("text", ["a: 1\nb: {c: 1,\n  c: 2}", "a: {c: 1}\nb: {d: {}}\nc: 0\nc: 1"])
def test_a_key_written_twice_is_told_with_its_line(folder: Path, text: str) -> None:
    line = text.count("\n") + 1
    with pytest.raises(UserError, match=rf'config.yaml, line {line}: not valid YAML: key "c" is there twice$'):
        load(write(folder, text), [], NAMES)


def test_no_yaml_makes_an_object(folder: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: not valid YAML: could not determine a constructor"):
        load(write(folder, "!!python/object/apply:os.getcwd []\n"), [], NAMES)


def test_a_section_with_nothing_behind_it_keeps_its_defaults(folder: Path) -> None:
    path = write(folder, MINIMAL)
    assert load(write(folder, yaml.safe_dump(MINIMAL) + "teacher:\nspace:\n"), [], NAMES) == load(path, [], NAMES)


def test_an_unknown_key_is_told_before_what_is_missing(folder: Path) -> None:
    with pytest.raises(UserError, match=r'model.nmae: unknown key; did you mean "model.name"\?$'):
        load(write(folder, changed(model={"nmae": "model"})), [], NAMES)
