"""A best-config file is refused where it was cut, edited or is none, and says the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from search.config.schema import is_study_name, study_name
from search.deliver.best_config import read_best_config, schema
from search.errors import UserError
from spaces.recipe import Recipe


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(best: Path, share: float) -> None:
    text = best.read_text()
    best.write_text(text[: int(len(text) * share)])
    with pytest.raises(UserError, match=r"best-config\.yaml: "):
        read_best_config(best)


def test_every_line_of_a_file_is_needed(best: Path) -> None:
    """Cut anywhere between two lines, whatever YAML is left."""
    lines = best.read_text().splitlines(keepends=True)
    for count in range(0, len(lines), 12):
        best.write_text("".join(lines[:count]))
        with pytest.raises(UserError):
            read_best_config(best)


def test_an_edited_recipe_is_refused_and_the_way_out_named(best: Path) -> None:
    data = yaml.safe_load(best.read_text())
    data["recipe"]["steps"][0]["settings"]["layers"] = 1
    best.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match="recipe: was edited"):
        read_best_config(best)


def test_a_data_path_may_be_edited(best: Path) -> None:
    """To rebuild on another machine, where the data lies elsewhere."""
    data = yaml.safe_load(best.read_text())
    data["config"]["data"]["train"] = "/elsewhere/train.parquet"
    best.write_text(yaml.safe_dump(data))
    assert read_best_config(best).config["data"]["train"] == "/elsewhere/train.parquet"


@pytest.mark.parametrize("key", schema("best-config")["required"])
def test_a_missing_key_is_named(best: Path, key: str) -> None:
    data = yaml.safe_load(best.read_text())
    del data[key]
    best.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=f"'{key}' is a required property"):
        read_best_config(best)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "must be a best-config file"),
        ("a: [1, 2", "not valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
        ("schema_version: 99\n", "must be at most 2 for this program, got 99"),
        ("schema_version: 1\n", "must be 2 for this program, got 1; export the study again"),
        ("\udcff", "cannot be read"),
    ],
)
def test_what_is_no_best_config_is_refused(best: Path, content: str, message: str) -> None:
    best.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        read_best_config(best)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: no such file"):
        read_best_config(tmp_path / "nothing.yaml")


def test_the_recipe_of_a_file_is_the_recipe(exported: Path) -> None:
    data = yaml.safe_load((exported / "best-config.yaml").read_text())
    assert Recipe.from_json(data["recipe"]).digest == data["digest"]


EDITS = {
    "study": ["../../elsewhere", "..", "a/b", "/tmp/x", "", "x\n", "a" * 201],
    "number": [-1, "../3"],
    "task": ["../x"],
    "files": [{"../../etc/passwd": "0" * 64}, {"/etc/passwd": "0" * 64}, {"a/../../b": "0" * 64}, {"a": "../b"}],
    "digest": ["0123", "../../../../../.."],
    "config.study": ["../.."],
    "config.task": ["../x", 3],
    "config.model": [{}, "bert"],
    "config.workload": [{"batch": 1, "length": 32, **wrong} for wrong in ({"threads": "x"}, {"prompt": 0})],
    "config.data": [{"max_length": 64, "doc_stride": "x"}, {"max_length": 64, "n_best": 0}],
    "measurements.accuracy.value": [float("nan"), float("inf")],
    "config.workload.batch": ["one", 0],
    "recipe.runtime.name": ["../eager", "Eager\n"],
    "recipe.teacher": ["../teacher"],
    "recipe.steps.0.name": ["../distill"],
    "recipe.steps.0.settings": [{"layers": [1]}, {"../x": 1}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in EDITS.items() for value in values])
def test_a_name_a_digest_or_a_number_that_is_none_is_refused_where_it_is_read(best: Path, key: str, value: Any) -> None:
    """Names become folders, and a file may come from anywhere. The digest of the recipe is made to fit."""
    data = yaml.safe_load(best.read_text())
    *sections, leaf = [int(part) if part.isdigit() else part for part in key.split(".")]
    section = data
    for part in sections:
        section = section[part]
    assert leaf in section
    section[leaf] = value
    if key.startswith("recipe"):
        data["digest"] = Recipe.from_json(data["recipe"]).digest
    best.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=rf"best-config\.yaml: {key.partition('.')[0]}"):
        read_best_config(best)


def test_what_every_study_is_called_is_what_a_record_takes(best: Path) -> None:
    data = yaml.safe_load(best.read_text())
    for name in ("a", "_x", "movie-reviews", "v1.2_b", study_name("Ein Name/mit äöü" * 40)):
        assert is_study_name(name)
        data["study"] = data["config"]["study"] = name
        best.write_text(yaml.safe_dump(data))
        assert read_best_config(best).study == name
    for name in EDITS["study"]:
        assert not is_study_name(name)


def test_a_study_of_a_database_that_is_no_folders_name_is_refused(tmp_path: Path) -> None:
    from search.deliver.read_study import read_study

    with pytest.raises(UserError, match=r'^STUDY: must be made of letters.*, got "../../x"$'):
        read_study(tmp_path, "../../x")
