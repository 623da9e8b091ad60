"""Data in folders: splits by their names, and what datasets saved; the same rows as from files, for every task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import command
import pytest
import tiny

from search.cli.main import main
from search.config.load import from_mapping
from search.config.schema import RunConfig
from search.config.source import Source
from search.errors import UserError
from search.prepare import runner
from search.prepare.runner import data_key_of
from search.space.choices import names
from search.tasks import task_of

from .test_task_contract import cases

#: The task of a case of the contract suite.
TASKS = {
    "single_label_classification": "classification",
    "question-answering": "question-answering",
    "sentence-similarity": "sentence-similarity",
    "causal-lm": "causal-lm",
}


def config_of(folder: Path, task: str = "classification", **data: Any) -> RunConfig:
    raw = {"model": {"name": "a/model"}, "task": task, "data": data}
    return from_mapping(raw, names(), Source("c.yaml", folder))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def stems(folder: Path, parts: Mapping[str, list[dict[str, Any]]]) -> None:
    for name, rows in parts.items():
        write_lines(folder / f"{name}.jsonl", rows)


def saved(folder: Path, parts: Mapping[str, list[dict[str, Any]]]) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({name: Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(folder)


@pytest.mark.parametrize("case", TASKS)
@pytest.mark.parametrize("write", [stems, saved])
def test_a_folder_gives_the_rows_that_its_files_give(tmp_path: Path, case: str, write: Callable[..., None]) -> None:
    task, about = TASKS[case], cases()[case]
    parts = {"train": about.rows[:80], "validation": about.rows[80:100], "test": about.rows[100:]}
    stems(tmp_path / "files", parts)
    write(tmp_path / "folder", parts)
    files = config_of(tmp_path, task, **about.data, **{name: f"files/{name}.jsonl" for name in parts})
    folder = config_of(tmp_path, task, **about.data, train="folder")
    assert task_of(folder).load(folder.data).digest == task_of(files).load(files.data).digest
    again = from_mapping(folder.to_mapping(), names())
    assert again.data == folder.data, "a study goes on with what was found"


def test_a_saved_table_is_a_split_and_its_class_names_count(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    kinds = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    rows = [{"text": f"film {i}", "label": i % 2} for i in range(40)]
    Dataset.from_list(rows, features=kinds).save_to_disk(tmp_path / "rows")
    tiny.write_csv(tmp_path / "test.csv", [{"text": f"plot {i}", "label": ("bad", "good")[i % 2]} for i in range(9)])
    config = config_of(tmp_path, train="rows", test="test.csv")
    splits = task_of(config).load(config.data)
    assert splits.labels == ("bad", "good") and len(splits.test) == 9
    assert len(splits.train) + len(splits.validation) == 40


def test_other_names_of_splits_and_files_of_other_kinds_go_together(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    tiny.write_csv(tmp_path / "mine" / "train.csv", tiny.sentences(40, 0))
    write_lines(tmp_path / "mine" / "Dev.jsonl", [dict(row) for row in tiny.sentences(20, 1)])
    write_lines(tmp_path / "other.jsonl", [dict(row) for row in tiny.sentences(20, 2)])
    (tmp_path / "mine" / "README.md").write_text("about")
    config = config_of(tmp_path, train="mine", test="other.jsonl")
    files = {split: Path(path).name for split, path in config.data.splits.items()}
    assert files == {"train": "train.csv", "validation": "Dev.jsonl", "test": "other.jsonl"}


def test_what_is_in_a_folder_is_the_key_of_its_rows(tmp_path: Path) -> None:
    from datasets import Dataset

    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        Dataset.from_list(tiny.sentences(30, seed)).save_to_disk(tmp_path / name)
    first, other = (data_key_of(config_of(tmp_path, train=name))["train"] for name in ("a", "c"))
    assert first == data_key_of(config_of(tmp_path, train="a"))["train"] != other


def test_rows_that_code_with_other_rules_has_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_csv(tmp_path / "train.csv", tiny.sentences(40, 0))
    config = config_of(tmp_path, train="train.csv")
    before = data_key_of(config)
    assert data_key_of(config) == before
    monkeypatch.setattr(runner, "DATA_READERS", (*runner.DATA_READERS, "search.config"))  # as if code had changed
    assert data_key_of(config) != before


MISTAKES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str], str]] = {
    "an empty folder": ({}, {"train": "d"}, r'data.train: must be a file .*, got "d" \(it has no file of data\)'),
    "no train": ({"test.csv": ""}, {"train": "d"}, r'must be .* file train .*, got "d" \(it has test.csv\)'),
    "two files of a split": (
        {"train.csv": "", "train.tsv": ""},
        {"train": "d"},
        r"d has several files of the split train \(train.csv, train.tsv\); name one of them",
    ),
    "splits where one table is meant": (
        {"train.csv": "", "test.csv": ""},
        {"train": "d/train.csv", "test": "d"},
        r'data.test: must be a file .*, or a folder of one table.*, got "d" \(a folder with test.csv, train.csv: name',
    ),
    "a delimiter of no file": (
        {"train.jsonl": ""},
        {"train": "d", "delimiter": ";"},
        "data.delimiter: must be left out where no file ends in .csv or .tsv",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_folder_that_holds_no_splits_is_refused(tmp_path: Path, mistake: str) -> None:
    files, data, message = MISTAKES[mistake]
    (tmp_path / "d").mkdir()
    for name, content in files.items():
        (tmp_path / "d" / name).write_text(content)
    with pytest.raises(UserError, match=rf"c.yaml: .*{message}"):
        config_of(tmp_path, **data)


def test_a_folder_of_datasets_that_is_broken_ends_the_command_with_one_error(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "rows", {"train": tiny.sentences(40, 0)})
    for file in tmp_path.rglob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    splits = {"train": "rows", "validation": None, "test": None}
    config = command.write_config(tmp_path / "c.yaml", model={"name": str(tiny_bert)}, data=splits)
    capsys.readouterr()  # what was said before
    assert main(["plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 2
    error = capsys.readouterr().err
    assert "data.train: " in error and "rows/train cannot be read as a folder of datasets" in error
    assert len(error.splitlines()) == 1 and "Traceback" not in error, error
