"""What a text may be given beside one label of several: searched by the real command, and found by configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import command
import pytest
import tiny
from conftest import state_of

import search
from search.config.load import from_mapping
from search.config.schema import RunConfig
from search.config.source import Source
from search.errors import UserError
from search.front.outcome import Outcome
from search.space.choices import names
from search.tasks import task_named, task_of
from search.tasks.multi_label import MultiLabel
from search.tasks.regression import Regression
from search.tasks.rows import LabelledData

from .test_pipeline import pipeline, same

TOPICS = ("praise", "blame", "camera")
WORDS = dict(zip(TOPICS, (tiny.POSITIVE, tiny.NEGATIVE, ("camera",)), strict=True))


def topics(text: str) -> list[str]:
    """The labels of a text: what it has more than one word of, and the camera where it is named."""
    counts = {name: sum(word in words for word in text.split()) for name, words in WORDS.items()}
    return [name for name in TOPICS if counts[name] > (name != "camera")]


def write(folder: Path, labelled: Any) -> dict[str, str]:
    """The three files of a configuration, with the label that `labelled` gives a text."""
    files = {}
    for seed, (split, count) in enumerate({"train": 256, "validation": 96, "test": 96}.items()):
        texts = [row["text"] for row in tiny.sentences(count, seed)]
        files[split] = f"{split}.jsonl"
        lines = [json.dumps({"text": text, "label": labelled(text)}) + "\n" for text in texts]
        (folder / files[split]).write_text("".join(lines))
    return files


def results(folder: Path, study: str) -> tuple[tuple[Outcome, ...], Path]:
    """All trials of a search that ran in `folder`, and one of the models that it exported."""
    mlruns = folder / "mlruns"
    return state_of(mlruns, study).outcomes, min((mlruns / "exports" / study / "models").iterdir())


def test_several_labels_a_text_are_searched_exported_checked_and_answered(tmp_path: Path) -> None:
    model = tiny.classifier(tmp_path / "model", TOPICS, problem_type="multi_label_classification")
    config = command.write_config(
        tmp_path / "topics.yaml", model={"name": str(model)}, data=write(tmp_path, topics), teacher={"epochs": 16}
    )
    ended = command.search("run", config, cwd=tmp_path).succeeded()
    outcomes, folder = results(tmp_path, "topics")
    assert [outcome.status for outcome in outcomes] == ["complete"] * 4, ended.out
    assert outcomes[0].measurements["f1_micro"].value > 0.8, "the teacher has learned"
    assert "the model" in command.search("check", folder, cwd=tmp_path).succeeded().out
    loaded = search.load(folder)
    [[*scores]] = [loaded("a bright charming warm film", top_k=None)]
    assert {one["label"] for one in scores} == set(TOPICS)
    assert scores[0] == {"label": "praise", "score": pytest.approx(0.8, abs=0.3)}
    assert sum(one["score"] for one in scores) != pytest.approx(1.0, abs=1e-3), (
        "each label has a probability of its own"
    )


def lead(text: str) -> float:
    """How many more words of praise than of blame a text has."""
    return float(sum((word in tiny.POSITIVE) - (word in tiny.NEGATIVE) for word in text.split()))


def stars(text: str) -> float:
    """A number far from 0, in a unit far from 1."""
    return 5000.0 + 100 * lead(text)


def test_numbers_are_searched_exported_checked_and_answered_in_the_datas_unit(tmp_path: Path) -> None:
    model = tiny.bert(tmp_path / "model")
    config = command.write_config(
        tmp_path / "stars.yaml",
        model={"name": str(model), "problem_type": "regression"},
        data=write(tmp_path, stars),
        teacher={"epochs": 8},
        budget={"trials": 2},
        space={"bits": "off", "runtime": {"name": "eager"}},
    )
    ended = command.search("run", config, cwd=tmp_path).succeeded()
    outcomes, folder = results(tmp_path, "stars")
    assert [outcome.status for outcome in outcomes] == ["complete"] * 2, ended.out
    assert outcomes[0].measurements["pearson"].value > 0.8, "the teacher has learned"
    assert "the model" in command.search("check", folder, cwd=tmp_path).succeeded().out
    good, bad = search.load(folder)(["bright charming warm film", "dull noisy tedious film"])
    assert good["label"] == bad["label"] == "LABEL_0"
    assert 4000 < bad["score"] < 5000 < good["score"] < 6000


def target(problem: str, text: str) -> list[float]:
    """The number that each output of a model is trained towards."""
    return [lead(text)] if problem == "regression" else [float(name in topics(text)) for name in TOPICS]


def trained(folder: Path, problem: str) -> Path:
    """The model in `folder`, trained by transformers' own loss until it follows the words of a text."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).train()
    tokenizer = tiny.word_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for step in range(120):
            texts = [row["text"] for row in tiny.sentences(32, 100 + step)]
            targets = torch.tensor([target(problem, text) for text in texts])
            loss = model(**tokenizer(texts, padding=True, return_tensors="pt"), labels=targets).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("problem", "labels", "labelled"),
    [("multi_label_classification", TOPICS, topics), ("regression", ["LABEL_0"], lead)],
    ids=["multi-label", "regression"],
)
def test_the_uncompressed_model_of_a_search_answers_as_the_pipeline_of_transformers(
    tmp_path: Path, problem: str, labels: Sequence[str], labelled: Callable[[str], Any]
) -> None:
    """By the head that the model has: the configuration says nothing of the problem type."""
    source = trained(tiny.classifier(tmp_path / "model", labels, problem_type=problem), problem)
    config = command.write_config(
        tmp_path / "whole.yaml",
        model={"name": str(source)},
        data=write(tmp_path, labelled),
        teacher={"epochs": 0},
        budget={"trials": 2},
        space={"bits": "off", "runtime": {"name": "eager"}},
    )
    ended = command.search("run", config, cwd=tmp_path).succeeded()
    assert [outcome.status for outcome in results(tmp_path, "whole")[0]] == ["complete"] * 2, ended.out
    command.search("export", "whole", "--pick", "0", "--to", tmp_path / "out", cwd=tmp_path).succeeded()
    ours, theirs = search.load(tmp_path / "out"), pipeline(source)
    texts = [row["text"] for row in tiny.sentences(8, 77)]
    for top_k in (None, 1):
        same(ours(texts, top_k=top_k), theirs(texts, top_k=top_k))
    same(ours(texts), theirs(texts))


# --- which task a configuration means -------------------------------------------------------------------------


def configured(folder: Path, source: Path, **parts: Any) -> RunConfig:
    """With the model in `source`."""
    (folder / "train.csv").write_text("text,label,toxic,insult\na,0,1,0\n")
    sections = {"model": {"name": str(source)}, "data": {"train": "train.csv"}}
    merged = {name: {**section, **parts.pop(name, {})} for name, section in sections.items()}
    return from_mapping({"task": "classification", **merged, **parts}, names(), Source("c.yaml", folder))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return tiny.bert(tmp_path / "plain")


COLUMNS = {"label": ["toxic", "insult"]}
MULTI: dict[str, Any] = {"problem_type": "multi_label_classification"}


def test_the_problem_type_is_told_by_itself_the_columns_the_metric_or_the_model(tmp_path: Path, plain: Path) -> None:
    assert configured(tmp_path, plain).model.problem_type == "single_label_classification"
    for one in (
        configured(tmp_path, plain, model=MULTI),
        configured(tmp_path, plain, data=COLUMNS),
        configured(tmp_path, plain, metric="f1_macro"),
        configured(tmp_path, tiny.classifier(tmp_path / "own", **MULTI)),
    ):
        assert one.model.problem_type == "multi_label_classification"
        assert one.metric in ("f1_micro", "f1_macro")
        assert isinstance(task_of(one), MultiLabel)
    for one in (
        configured(tmp_path, plain, metric="spearman"),
        configured(tmp_path, tiny.classifier(tmp_path / "number", ["LABEL_0"], problem_type="regression")),
    ):
        assert one.model.problem_type == "regression" and isinstance(task_of(one), Regression)
    new_head = configured(tmp_path, tmp_path / "own", model={"head": "mean"})
    assert new_head.model.problem_type == "single_label_classification", "its own head is not used"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": {"problem_type": "multi_label"}}, "model.problem_type: must be .*multi_label_classification"),
        (
            {"model": MULTI, "metric": "f1"},
            r'metric: unknown metric "f1" \(valid: f1_micro, f1_macro\); it is a metric of single_label_classification',
        ),
        (
            {"model": {"problem_type": "single_label_classification"}, "data": COLUMNS},
            "data.label: must be one column where model.problem_type is single_label_classification",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, plain: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"c.yaml: {message}"):
        configured(tmp_path, plain, **parts)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (['["x"]'], r"; for several labels a text set model.problem_type: multi_label_class"),
        (["0.5"], r"got 0.5 in row 1; for a number a text set model.problem_type: regression"),
        (
            list(map(str, range(30))),
            r"30 different values in 30 rows of .*; for a number a text set model.problem_type: reg",
        ),
        ([f'"w{i}"' for i in range(30)], r"30 different values in 30 rows of \S+$"),
    ],
)
def test_labels_of_another_problem_type_name_the_key(tmp_path: Path, labels: list[str], message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "a{i}", "label": {label}}}\n' for i, label in enumerate(labels)))
    with pytest.raises(UserError, match=message):
        task_named("classification").load(LabelledData(train=str(path)))
