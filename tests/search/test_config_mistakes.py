"""A mistake in a configuration is told with file, key, rule and value."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.config.load import from_mapping, load_config
from search.config.source import Override
from search.errors import UserError

from .test_config import MINIMAL, NAMES, changed, write

WRONG: list[tuple[dict[str, Any] | str, str]] = [
    (changed(trails=1), r"config.yaml: trails: unknown key"),
    (changed(source="here"), r"config.yaml: source: unknown key; did you mean .measure."),
    ({**MINIMAL, 4: 5}, r"config.yaml: 4: unknown key"),
    (changed(teacher={4: 5}), r"config.yaml: teacher.4: unknown key"),
    (changed(limits={"others": {4: 5}}), r'config.yaml: limits.others.4: unknown objective "4"'),
    (changed(sampelr="gp"), r'sampelr: unknown key; did you mean "sampler"\?'),
    (changed(trials=3), r'trials: unknown key; did you mean "budget.trials"\?'),
    (changed(teacher={"epoch": 1}), r'teacher.epoch: unknown key; did you mean "teacher.epochs"\?'),
    (changed(teacher={"epochs": "two"}), r'teacher.epochs: must be a number, between 0 and 1000000, got "two"'),
    (changed(recover={"epochs": 1e308}), r"recover.epochs: must be a number, between 0 and 1000000, got 1e\+308"),
    (changed(teacher={"batch": 10**30}), r"teacher.batch: must be a whole number, between 1 and 65536, got 1000000"),
    (
        changed(teacher={"learning_rate": 1e300}),
        r"teacher.learning_rate: must be a number, above 0 and at most 1e\+30, got 1e\+300",
    ),
    (changed(teacher={"batch": 0}), r"teacher.batch: must be a whole number, between 1 and 65536, got 0"),
    (changed(teacher={"batch": 8.5}), r"teacher.batch: must be a whole number, between 1 and 65536, got 8.5"),
    (changed(teacher={"batch": True}), r"teacher.batch: must be a whole number, between 1 and 65536, got true"),
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
    (changed(workload={"threads": 0}), r"workload.threads: must be a whole number, between 1 and 1024 or null, got 0"),
    (changed(cache={"max_gb": 0}), r"cache.max_gb: must be a number, above 0 or null, got 0"),
    (changed(device="gpu"), r'device: must be "auto" or "cpu" or "cuda", got "gpu"'),
    (changed(workload={"length": "long"}), r'workload.length: .* or "data", got "long"'),
    (changed(metric="matthews"), r'unknown metric "matthews" \(valid: accuracy, f1, matthews_correlation\)'),
    (changed(task="clasification"), r'unknown task "clasification"; did you mean "classification"\?'),
    (changed(metric="acuracy"), r'unknown metric "acuracy"; did you mean "accuracy"\?'),
    (changed(metric="bleu"), r'metric "bleu" \(valid: .*\); none of a library is loaded by its name: CONTRIBUTING.md'),
    (changed(metric="precision"), r"; none of a library is loaded by its name"),
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


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"workload": {"prompt": 64}}, r"workload.prompt: must be left out unless the task is text, got 64"),
        ({"workload": {"new_tokens": 8}}, r"workload.new_tokens: must be left out unless the task is text, got 8"),
        ({"objectives": ["metric", "tpot_ms"]}, r'objectives: must be left out unless the task is text, got "tpot_ms"'),
        ({"recover": {"top_k": 8}}, r"recover.top_k: must be left out unless the task is prose, got 8"),
        (
            {"task": "text", "recover": {"top_k": 8}},  # it generates, and distils no likeliest tokens
            r"recover.top_k: must be left out unless the task is prose, got 8",
        ),
        ({"recover": {"tokens": 0}}, r"recover.tokens: must be a whole number, at least 1 or null, got 0"),
        (
            {"task": "text", "recover": {"top_k": -1}},
            r"recover.top_k: must be a whole number, at least 0 or null, got -1",
        ),
        ({"limits": {"max_ttft_ms": 9}}, r"limits.max_ttft_ms: must be left out unless the task is text, got 9"),
        ({"limits": {"max_tpot_ms": 9}}, r"limits.max_tpot_ms: must be left out unless the task is text, got 9"),
        (
            {"task": "text", "limits": {"max_tpt_ms": 9}},
            r'limits.max_tpt_ms: unknown key; did you mean "limits.max_tpot_ms"',
        ),
        ({"limits": {"max_memory_mb": 0}}, r"limits.max_memory_mb: must be a number, above 0 or null, got 0"),
        ({"limits": {"others": {"ttft_ms/b8": 9}}}, r"limits.others.ttft_ms/b8: must be left out unless"),
        ({"objectives": ["metric", "generate_ms/b2"]}, r"objectives: must be left out unless the task is text"),
        (
            {"task": "text", "objectives": ["metric", "generate_ms", "latency_p50_ms"]},
            r"objectives: must be at least two different ones",
        ),
        ({"task": "text", "workload": {"length": 64}}, r"workload.length: must be left out for text.*got 64"),
    ],
)
def test_tokens_are_generated_by_tasks_that_generate_alone(project: Path, section: Any, message: str) -> None:
    names = replace(
        NAMES,
        tasks=(*NAMES.tasks, "text"),
        metrics={**NAMES.metrics, "text": ("perplexity",)},
        objectives=(*NAMES.objectives, "tpot_ms", "ttft_ms", "generate_ms"),
        generating=("text",),
        likeliest=("prose",),
    )
    with pytest.raises(UserError, match=message):
        load_config(write(project, {**MINIMAL, **section}), [], names)


@pytest.mark.parametrize(("workload", "prompt", "new"), [({}, 128, 32), ({"prompt": 64, "new_tokens": 8}, 64, 8)])
def test_the_length_of_a_task_that_generates_is_its_prompt(project: Path, workload: Any, prompt: int, new: int) -> None:
    objectives = (*NAMES.objectives, "generate_ms")
    names = replace(
        NAMES, tasks=("text",), metrics={"text": ("perplexity",)}, objectives=objectives, generating=("text",)
    )
    config = load_config(write(project, {**MINIMAL, "task": "text", "workload": workload}), [], names)
    assert config.objectives == ("metric", "generate_ms")
    assert (config.workload.prompt, config.workload.length, config.workload.new_tokens) == (prompt, prompt, new)
    assert from_mapping(config.to_mapping(), names) == config


@pytest.mark.parametrize(("config", "message"), WRONG)
def test_a_mistake_is_told_with_file_key_rule_and_value(project: Path, config: Any, message: str) -> None:
    path = write(project, config)
    with pytest.raises(UserError) as caught:
        load_config(path, [], NAMES)
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
        ("teacher.epochs=many", r'^--set teacher.epochs: must be a number, between 0 and 1000000, got "many"'),
        ("teacher={epoch: 1}", r'^--set teacher.epoch: unknown key; did you mean "teacher.epochs"\?'),
        ("task.name=x", r"--set task.name: unknown key; task has no keys in it"),
        ("data.train=none.csv", r"^--set data.train: no such file"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_as_one(project: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(write(project, MINIMAL), [override], NAMES)


def test_a_flag_is_named_as_the_user_wrote_it(project: Path) -> None:
    with pytest.raises(UserError, match=r"^--trials: must be a whole number, at least 1, got 0$"):
        load_config(write(project, MINIMAL), [Override("budget.trials", 0, "--trials")], NAMES)
