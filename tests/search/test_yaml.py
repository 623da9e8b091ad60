"""YAML says what a person expects of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from search.config.load import load_config
from search.errors import UserError

from .test_config import MINIMAL, NAMES, changed, write


@pytest.mark.parametrize("word", ["no", "off", "on", "yes", "No", "null-ish", "007", "1:30", "2025-01-31", "="])
def test_a_bare_word_where_text_is_wanted_is_that_text(project: Path, word: str) -> None:
    text = yaml.safe_dump({k: v for k, v in MINIMAL.items() if k != "data"})
    data = f"data: {{train: train.csv, text: {word}, label: {word}, label_names: [{word}, other]}}\n"
    section = load_config(write(project, text + data), [f"data.text_pair={word}"], NAMES).data
    assert (section.text, section.label, section.label_names, section.text_pair) == (word, word, (word, "other"), word)


@pytest.mark.parametrize(
    ("word", "meant"), [("on", True), ("Yes", True), ("true", True), ("off", False), ("no", False)]
)
def test_a_bare_word_that_switches_is_true_or_false_where_that_is_wanted(project: Path, word: str, meant: bool) -> None:
    path = write(project, yaml.safe_dump(MINIMAL) + f"measure: {{reuse: {word}}}\n")
    config = load_config(path, [f"teacher.freeze_embeddings={word}", f"space.prune={word}"], NAMES)
    assert (config.measure.reuse, config.teacher.freeze_embeddings, config.space) == (
        meant,
        meant,
        {} if meant else {"prune": None},
    )


@pytest.mark.parametrize("word", ["1", "y", "maybe", '"true"'])
def test_a_switch_takes_no_other_word(project: Path, word: str) -> None:
    with pytest.raises(UserError, match=r"^--set measure.reuse: must be true or false, got "):
        load_config(write(project, MINIMAL), [f"measure.reuse={word}"], NAMES)


def test_an_axis_that_is_off_is_opened_by_a_knob_of_it(project: Path) -> None:
    path = write(project, yaml.safe_dump(MINIMAL) + "space: {prune: off}\n")
    assert load_config(path, ["space.prune.heads=0.5"], NAMES).space == {"prune": {"heads": 0.5}}


@pytest.mark.parametrize(
    ("text", "number"), [("1e-4", 1e-4), ("1E4", 1e4), ("1.5e+2", 150.0), (".5", 0.5), ("+3", 3.0), ("2.", 2.0)]
)
def test_a_number_is_a_number_however_it_is_written(project: Path, text: str, number: float) -> None:
    epochs = load_config(
        write(project, yaml.safe_dump(MINIMAL) + f"teacher: {{epochs: {text}}}\n"), [], NAMES
    ).teacher.epochs
    assert epochs == number and isinstance(epochs, float)


@pytest.mark.parametrize("text", ["010", "1:30", ".inf", ".nan", "1e-4x", '"3"', "yes"])
def test_what_reads_as_a_number_to_a_machine_alone_is_none(project: Path, text: str) -> None:
    for key in ("teacher.epochs", "budget.trials", "limits.others.size_mb"):
        with pytest.raises(UserError, match=rf"^--set {key}: must be a (whole )?number.*, got "):
            load_config(write(project, MINIMAL), [f"{key}={text}"], NAMES)


@pytest.mark.parametrize("text", ["a: 1\nb: {c: 1,\n  c: 2}", "a: {c: 1}\nb: {d: {}}\nc: 0\nc: 1"])
def test_a_key_written_twice_is_told_with_its_line(project: Path, text: str) -> None:
    line = text.count("\n") + 1
    with pytest.raises(UserError, match=rf'config.yaml, line {line}: not valid YAML: key "c" is there twice$'):
        load_config(write(project, text), [], NAMES)


def test_no_yaml_makes_an_object(project: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: not valid YAML: could not determine a constructor"):
        load_config(write(project, "!!python/object/apply:os.getcwd []\n"), [], NAMES)


def test_a_section_with_nothing_behind_it_keeps_its_defaults(project: Path) -> None:
    path = write(project, MINIMAL)
    assert load_config(write(project, yaml.safe_dump(MINIMAL) + "teacher:\nspace:\n"), [], NAMES) == load_config(
        path, [], NAMES
    )


def test_an_unknown_key_is_told_before_what_is_missing(project: Path) -> None:
    with pytest.raises(UserError, match=r'model.nmae: unknown key; did you mean "model.name"\?$'):
        load_config(write(project, changed(model={"nmae": "model"})), [], NAMES)
