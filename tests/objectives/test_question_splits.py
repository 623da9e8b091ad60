"""Whole files of questions become the splits of a search, in the benchmark of the tasks and in the stage for a GPU."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import Table, parquet

from benchmarks import question_splits, tasks
from benchmarks.gpu import run_setup, task_front
from search.config.source import embedded
from search.errors import UserError
from search.space.configured import configured

COUNTS = {"nyt": 60, "new_wiki": 400, "squad_dev": 90}


def rows(name: str, count: int) -> list[dict[str, Any]]:
    """Two questions a context."""
    return [
        {
            "id": f"{name}-{i}",
            "title": name,
            "context": f"{name} text {i // 2}",
            "question": f"what is {i}?",
            "answers": {"text": ["text"], "answer_start": [len(name) + 1]},
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of whole files, whose name means something in YAML."""
    folder = tmp_path_factory.mktemp("whole: files #1")
    for name, count in COUNTS.items():
        parquet.write_table(Table.from_pylist(rows(name, count)), folder / f"{name}.parquet")
    return folder


def column(file: Path, name: str) -> list[Any]:
    values: list[Any] = parquet.read_table(file).column(name).to_pylist()
    return values


def named(ids: Iterable[str], name: str) -> set[str]:
    return {one for one in ids if one.startswith(f"{name}-")}


def test_no_context_of_validation_is_trained_on_and_no_row_of_train_is_left_out(source: Path, tmp_path: Path) -> None:
    files = question_splits.write_splits(source, tmp_path)
    train, validation, test = (column(files[split], "id") for split in ("train", "validation", "test"))
    assert len(named(train, "nyt")) == 60 and set(test) == {f"squad_dev-{i}" for i in range(90)}
    assert named(train, "new_wiki") | set(validation) == {f"new_wiki-{i}" for i in range(400)}
    assert len(train) + len(validation) == 460, "no row is in both"
    assert not set(column(files["train"], "context")) & set(column(files["validation"], "context"))
    assert len(validation) == pytest.approx(0.2 * 400, abs=40)
    assert column(files["train"], "answers")[0] == {"text": ["text"], "answer_start": [4]}
    assert question_splits.described(files) == f"rows: train {len(train)}, validation {len(validation)}, test 90"


def test_validation_and_test_have_at_most_the_stated_number_of_rows(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = question_splits.write_splits(source, tmp_path / "whole")
    monkeypatch.setitem(question_splits.MOST, "validation", 7)
    monkeypatch.setitem(question_splits.MOST, "test", 5)
    some = question_splits.write_splits(source, tmp_path / "some")
    for split, most in question_splits.MOST.items():
        ids = column(some[split], "id")
        assert len(ids) == most and [one for one in column(whole[split], "id") if one in ids] == ids
    assert column(some["train"], "id") == column(whole["train"], "id")
    assert some == question_splits.write_splits(source, tmp_path / "some"), "written again in their place"


def test_the_packaged_contexts_are_on_the_same_side_of_the_cut() -> None:
    packaged = embedded().parent / "question_answering"
    assert not question_splits.is_train(column(packaged / "validation.parquet", "context")).any()


def test_the_example_of_the_task_reads_them(source: Path, tmp_path: Path) -> None:
    files = question_splits.write_splits(source, tmp_path / "cut: #2")
    config = configured(task=question_splits.TASK, overrides=question_splits.settings(files))
    assert config.data.splits == {split: str(file) for split, file in files.items()}
    assert config.task == question_splits.TASK


def test_the_benchmark_hands_them_to_the_search_of_their_task(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(tasks, "read_study", lambda mlruns, study: study)
    settings = question_splits.settings(question_splits.write_splits(source, tmp_path / "questions"))
    for task in ("question-answering", "classification"):
        tasks.searched(task, tmp_path, False, settings if task == question_splits.TASK else [])
    asked, other = commands
    assert [asked[i + 1] for i, word in enumerate(asked) if word == "--set"] == settings
    assert "--set" not in other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folder", "a", "b"], "--folder: several only with --read"),
        (["--questions", "none"], "--questions: must hold nyt.parquet, new_wiki.parquet, squad_dev.parquet; no such"),
        (["--questions", "none", "--tasks", "causal-lm"], "only with question-answering among --tasks, got causal-lm"),
    ],
)
def test_a_folder_without_the_files_ends_the_benchmark_before_anything_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tasks", "--folder", "out", *arguments])
    with pytest.raises(SystemExit) as ended:
        tasks.main()
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_such_file_is_refused(tmp_path: Path) -> None:
    table = Table.from_pylist([{"id": "a", "context": "b"}])
    for name in COUNTS:
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=r"nyt.parquet must have the columns id, .*, got a file without question"):
        question_splits.write_splits(tmp_path, tmp_path / "cut")
    (tmp_path / "nyt.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=r"nyt.parquet cannot be read as parquet: "):
        question_splits.write_splits(tmp_path, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def test_the_stage_for_a_gpu_takes_whole_files_where_they_are_here_and_says_so(
    source: Path, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "bundle" / "part-2"
    part.mkdir(parents=True)
    (part / "model").symlink_to(tiny_bert)
    monkeypatch.setattr(run_setup, "HERE", tmp_path)
    monkeypatch.setenv("GPU_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("GPU_QUESTIONS", raising=False)
    monkeypatch.setenv("GPU_STAGE_UNTIL", repr(time.time() + 240))
    setup = run_setup.RunSetup(tmp_path / "out")
    assert task_front.data_of(setup, "question-answering") == ([], "data: the rows of the package")
    (part / "questions").symlink_to(source)
    settings, said = task_front.data_of(setup, "question-answering")
    assert len(settings) == 3 and said.startswith(f"data: whole files of {part / 'questions'}; rows: train ")
    assert task_front.data_of(setup, "sentence-similarity") == ([], "data: the rows of the package")
    config = task_front.config_of(setup, "question-answering", settings)
    assert config.study == "question-answering-whole" and Path(str(config.data.train)).is_relative_to(setup.work)
    assert config.data.limit is None and config.task == "question-answering"
    monkeypatch.setenv("GPU_QUESTIONS", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"no such file: .*elsewhere/nyt.parquet"):
        task_front.data_of(setup, "question-answering")
