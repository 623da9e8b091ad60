"""A mistake in a configuration is told with file, key, rule and value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from search.config.load import load
from search.config.source import Override
from search.errors import UserError

from .test_config import MINIMAL, NAMES, changed, write


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
