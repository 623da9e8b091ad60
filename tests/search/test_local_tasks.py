"""`python -m search lm-eval`: what it refuses, and what it makes of the results of lm-eval.

`test_causal_search.py` has its scores of the members of a study.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import command
import pytest

from search.cli.main import main
from search.report.task_scores import ModelScores, TaskScore, scores_of
from search.serve.harness import HARNESS_INSTALL
from search.track.trial_metrics import log_in_trial

needs_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason=f"needs {HARNESS_INSTALL}")
TASK = """
task: {name}
dataset_path: {path}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: {metric}}}]
"""
RESULTS: dict[str, Any] = {
    "results": {
        "choose": {"alias": "choose", "acc,none": 0.25, "acc_stderr,none": 0.125, "sample_len": 12},
        "say": {"alias": "say", "exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": "N/A"},
    },
    "groups": {"both": {"alias": "both", "acc,none": 0.375, "acc_stderr,none": 0.1}},
    "higher_is_better": {"choose": {"acc": True}, "both": {"acc": None}},
    "n-samples": {"choose": {"original": 40, "effective": 12}},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like an exported model."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "recipe.yaml").write_text("", encoding="utf-8")
    return tmp_path / "model"


def test_without_lm_eval_the_command_that_installs_it_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else real(name))
    assert main(["lm-eval", str(model), "--tasks", "choose"]) == 2
    assert capsys.readouterr().err == f"error: lm-eval: not installed: {HARNESS_INSTALL}\n"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["no-such", "--tasks", "a"], "STUDY_OR_DIR: no exported front: no-such is no folder with a front.json"),
        (["plain", "--tasks", "a"], "STUDY_OR_DIR: must be an exported study or model, got plain, a folder without a"),
        (["empty", "--tasks", "a"], "empty/front.json: a front without members"),
        (["broken", "--tasks", "a"], "broken/front.json: not the front of an export (KeyError: 'task')"),
        (["model"], "--tasks must be given (example: python -m search lm-eval"),
        (["model", "--tasks", "a", "--limit", "0"], "--limit: must be a whole number of 1 or more, got 0"),
        (["model", "--tasks", "a", "--json", "plain"], "--json: must be a file, got "),
        pytest.param(["model", "--tasks", ","], "--tasks: must name at least one task", marks=needs_lm_eval),
        pytest.param(
            ["model", "--tasks", "a", "--include-path", "none"],
            "--include-path: must be a folder with YAML files of tasks, got none",
            marks=needs_lm_eval,
        ),
    ],
)
def test_wrong_words_are_one_error(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], wanted: str
) -> None:
    monkeypatch.chdir(model.parent)
    for name in ("plain", "empty", "broken"):
        Path(name).mkdir()
    Path("empty/front.json").write_text(json.dumps({"study": "a", "task": "b", "members": []}), encoding="utf-8")
    Path("broken/front.json").write_text(json.dumps({"study": "a"}), encoding="utf-8")
    assert main(["lm-eval", *words]) == 2
    output = capsys.readouterr()
    assert wanted in output.err and output.out == "" and len(output.err.splitlines()) == 1


@needs_lm_eval
@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("far", ["--tasks: far: its data must be on this machine, and nothing is downloaded: ", "nobody/has-it"]),
        ("metre", ["--tasks: metre: its metrics must be lm-eval's own, and nothing is downloaded, got not_a_metric"]),
        ("fra", ['--tasks: unknown task "fra"; did you mean "far"?']),
    ],
)
def test_a_task_that_would_download_something_is_refused(model: Path, asked: str, wanted: list[str]) -> None:
    rows = [{"text": "a film"}]
    (model.parent / "test.json").write_text(json.dumps(rows), encoding="utf-8")
    local = f"json\ndataset_kwargs: {{data_files: {{test: {model.parent}/test.json}}, cache_dir: {model.parent}/cache}}"
    tasks = {
        "far": ("nobody/has-it", "acc"),
        "metre": (local, "not_a_metric, aggregation: mean, higher_is_better: true"),
    }
    for name, (path, metric) in tasks.items():
        (model / f"{name}.yaml").write_text(TASK.format(name=name, path=path, metric=metric), encoding="utf-8")
    ended = command.search("lm-eval", model, "--tasks", asked, "--include-path", model, cwd=model.parent)
    command.refused(ended, wanted)


def test_scores_are_those_of_tasks_and_groups() -> None:
    choose, say, both = scores_of(RESULTS)
    assert choose == TaskScore("choose", "acc", "none", 0.25, 0.125, "higher", 12)
    assert (say.title, say.figure, say.standard_error, say.better) == ("exact_match, strict-match", "0.5", None, None)
    assert (both.task, both.figure, both.rows) == ("both", "0.375 ± 0.1", None)


def test_names_of_metrics_are_what_mlflow_takes() -> None:
    score = TaskScore("my task: b", "exact_match", "strict,match", 0.5, 0.25, None, 3)
    named = ModelScores("folder", "study", 3, "0123", (score,)).by_name()
    assert named == {
        "lm_eval/my task_ b/exact_match/strict_match": 0.5,
        "lm_eval/my task_ b/exact_match/strict_match_stderr": 0.25,
    }


def test_without_a_record_of_the_trial_nothing_is_logged(tmp_path: Path) -> None:
    assert not log_in_trial(tmp_path, "study", 3, "0123", {"lm_eval/a/acc": 0.5})
    assert list(tmp_path.iterdir()) == []
