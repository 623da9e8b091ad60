"""A model that is not trained any further must bring its head, or nothing is searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import command
import pytest
import tiny
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from search.config.load import load_config
from search.errors import UserError
from search.planning import plan_lines
from search.prepare.data import prepare_data
from search.prepare.model import describe_model
from search.prepare.runner import data_key_of
from search.prepare.trained_head import trained_head
from search.space.choices import names
from search.tasks import task_named
from search.tasks.encoded import read_encoded
from search.tasks.trained_labels import TrainedLabels


def head_of(folder: Path, epochs: float = 0, head: str = "auto") -> TrainedLabels | None:
    config: Any = SimpleNamespace(
        task="classification",
        model=SimpleNamespace(name=folder.name, head=head),
        teacher=SimpleNamespace(epochs=epochs),
        where=lambda key: f"c.yaml: {key}",
    )
    return trained_head(config, AutoConfig.from_pretrained(folder), folder)


def described(folder: Path, **changes: Any) -> Path:
    """The folder with other values in its config.json; None removes one."""
    file = folder / "config.json"
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return folder


def without(folder: Path, *parts: str) -> Path:
    """The folder with weights whose names begin with one of `parts` left out."""
    file = folder / "model.safetensors"
    tensors = {name: value for name, value in load_file(file).items() if not name.startswith(parts)}
    save_file(tensors, file, {"format": "pt"})
    return folder


def saved(kind: Any, folder: Path) -> Path:
    kind(BertConfig(**tiny.SIZES)).save_pretrained(folder)
    return folder


def beside_a_pickle(folder: Path) -> Path:
    tiny.bert(folder)
    (folder / "model_head.pkl").write_bytes(b"never opened")
    return folder


HEADLESS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an encoder": (tiny.bert, "its architecture is BertModel"),
    "an encoder beside a pickled head": (beside_a_pickle, "its architecture is BertModel"),
    "a language model": (lambda f: saved(BertForMaskedLM, f), "its architecture is BertForMaskedLM"),
    "a tagger": (lambda f: saved(BertForTokenClassification, f), "its architecture is BertForTokenClassification"),
    "a class of the user's own": (
        lambda f: described(tiny.classifier(f), architectures=["MyClassifier"]),
        "its architecture is MyClassifier",
    ),
    "one that sounds like a classifier": (
        lambda f: described(tiny.classifier(f), architectures=["MyBertForSequenceClassification"]),
        "its architecture is MyBertForSequenceClassification",
    ),
    "no architecture": (lambda f: described(tiny.classifier(f), architectures=None), "not named in config.json"),
    "a classifier without the weights of its head": (
        lambda f: without(tiny.classifier(f), "classifier"),
        "its weights have no classifier.bias",
    ),
    "an encoder that says it is a classifier": (
        lambda f: described(tiny.bert(f), architectures=["BertForSequenceClassification"]),
        "its weights have no classifier.bias",
    ),
}


@pytest.mark.parametrize("kind", HEADLESS)
def test_without_training_a_model_without_a_trained_head_is_refused(tmp_path: Path, kind: str) -> None:
    make, reason = HEADLESS[kind]
    folder = make(tmp_path / "model")
    with pytest.raises(UserError) as caught:
        head_of(folder)
    message = str(caught.value)
    assert message.startswith("c.yaml: teacher.epochs: must be above 0: no trained head in model (")
    assert reason in message and "set teacher.epochs" in message


def test_a_new_head_without_training_is_refused_even_where_there_is_another(tmp_path: Path) -> None:
    folder = tiny.classifier(tmp_path / "model")
    with pytest.raises(UserError, match=r"no trained head in model \(model.head: mean makes a new one\)"):
        head_of(folder, head="mean")
    assert head_of(folder, epochs=1, head="mean") is None


def test_a_trained_head_passes_with_its_labels(tmp_path: Path) -> None:
    folder = tiny.classifier(tmp_path / "model", ("a", "b", "c"))
    assert head_of(folder) == TrainedLabels(("a", "b", "c"), trained_on=False)
    assert head_of(folder, epochs=0.5) == TrainedLabels(("a", "b", "c"), trained_on=True)


def test_an_encoder_that_is_trained_gets_a_new_head(tmp_path: Path) -> None:
    assert head_of(tiny.bert(tmp_path / "model"), epochs=1) is None
    assert head_of(described(tmp_path / "model", id2label={"0": 0}), epochs=1) is None


def test_plan_refuses_it_before_any_text_is_tokenised(config: Path) -> None:
    chosen = load_config(config, ["teacher.epochs=0"], names())
    with pytest.raises(UserError, match=r"teacher.epochs: must be above 0: no trained head"):
        list(plan_lines(chosen))


def test_digits_are_the_names_of_a_models_labels_before_they_are_numbers(tmp_path: Path) -> None:
    model = tiny.classifier(tmp_path / "model", ("1", "0"))
    rows = [{**row, "label": str(tiny.LABELS.index(row["label"]))} for row in tiny.sentences(120, seed=1)]
    tiny.write_csv(tmp_path / "train.csv", rows)
    file = command.write_config(tmp_path / "c.yaml", model={"name": str(model)}, teacher={"epochs": 0})
    removed = ["data.validation=null", "data.test=null"]
    chosen = load_config(file, [*removed, f"data.train={tmp_path / 'train.csv'}"], names())
    facts, data = tmp_path / "facts", tmp_path / "data"
    facts.mkdir()
    data.mkdir()
    describe_model(facts, chosen, lambda stage, done: None)
    prepare_data(data, chosen, facts, lambda stage, done: None)
    about = json.loads((data / "data.json").read_text())
    _, labels = read_encoded(data / "train.npz")
    assert about["labels"] == ["1", "0"]
    first = task_named("classification").load(chosen.data, str, TrainedLabels(("1", "0"))).train
    expected = {row["text"]: int(row["label"] == "0") for row in rows}
    assert [expected[text] for text in first.texts] == first.labels.tolist() == labels.tolist()


def test_data_that_are_read_in_another_way_are_other_data(tmp_path: Path, config: Path) -> None:
    rows = tiny.sentences(4, seed=1)
    for name in ("a.csv", "b.csv", "a.tsv"):
        tiny.write_csv(tmp_path / name, rows)
    keys = [
        json.dumps(data_key_of(load_config(config, [f"data.train={tmp_path / name}", *more], names())))
        for name, more in (
            ("a.csv", []),
            ("b.csv", []),
            ("a.tsv", []),
            ("a.csv", ["data.encoding=cp1252"]),
            ("a.csv", ["data.delimiter=;"]),
        )
    ]
    assert keys[0] == keys[1] and len(set(keys)) == 4


def test_what_transformers_says_of_a_classifier_is_told_as_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that the backbone reads and the classifier does not is no error of this program."""

    def refuse(*_: object, **__: object) -> None:
        raise AttributeError("no field of that name")

    folder = saved(BertForSequenceClassification, tmp_path / "model")
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_config", refuse)
    with pytest.raises(UserError, match=r"model\.name: .*classifier: .*no field of that name"):
        head_of(folder)
