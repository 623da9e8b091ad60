"""A new task is one file, a head and lines in two registries: `tagging` is learnt, compressed, scored, and replies."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import command
import numpy as np
import pytest
import tiny

from objectives import objective_named
from search.config.load import load_config
from search.config.schema import RunConfig
from search.errors import UserError
from search.execute.build_weights import build_weights
from search.prepare.data import prepare_data
from search.prepare.model import describe_model
from search.prepare.statistics import make_statistics
from search.prepare.teacher import make_teacher
from search.prepare.teacher_outputs import make_outputs
from search.prepare.trained_head import trained_head
from search.report import listing
from search.serve.pipeline import model_class
from search.serve.replies import Replies
from search.space.choices import names
from search.tasks import task_of
from spaces import build
from spaces.base import read_config
from spaces.loading import model_config
from spaces.recipe import Step
from spaces.runtime import Context

from . import tagging
from .tagging_head import registered, tagged

NOTHING: Callable[[str, float], None] = lambda stage, done: None  # noqa: E731
ROWS = {"train": 160, "validation": 40, "test": 40}


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        registered(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows, and what the stages of a search make of them: "teacher", and "weights" of one block."""
    root = tmp_path_factory.mktemp("tagging")
    tiny.bert(root / "bert")
    for seed, (name, count) in enumerate(ROWS.items()):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tagged(count, seed)))
    config = config_of(root)
    folders = {name: root / name for name in ("model", "data", "teacher", "statistics", "outputs", "weights")}
    for path in folders.values():
        path.mkdir()
    describe_model(folders["model"], config, NOTHING)
    prepare_data(folders["data"], config, folders["model"], NOTHING)
    make_teacher(folders["teacher"], config, folders["data"], "cpu", 1, root / "none", NOTHING)
    make_statistics(folders["statistics"], config, folders["data"], folders["teacher"], "cpu", 1, NOTHING)
    make_outputs(folders["outputs"], config, folders["data"], folders["teacher"], "cpu", 1, NOTHING)
    recover = {name: value for name, value in config.to_mapping()["recover"].items() if value is not None}
    parts = [folders[name] for name in ("data", "teacher", "statistics", "outputs")]
    steps = (Step("distill", {"layers": 1}),)
    build_weights(
        folders["weights"],
        config,
        steps,
        {"early_stopping": 0, "tokens": 0, **recover},
        *parts,
        "cpu",
        1,
        root / "s",
        NOTHING,
    )
    return root


def config_of(root: Path, *overrides: str) -> RunConfig:
    splits = {name: f"{name}.jsonl" for name in ROWS}
    path = command.write_config(root / "c.yaml", model={"name": "bert"}, task="tagging", data=splits)
    return load_config(path, overrides, names())


def opened(root: Path, name: str) -> Replies:
    """The model in a folder of the stages, as `search.load` gives it."""
    shutil.copytree(root / "data" / "tokenizer", root / name, dirs_exist_ok=True, ignore=lambda *_: ["config.json"])
    config = config_of(root).to_mapping()
    record: Any = SimpleNamespace(recipe=SimpleNamespace(task="tagging"), config=config)
    context = Context()
    replies = model_class("tagging")(
        root / name, record, build.open_predict(root / name, "eager", {"precision": "fp32"}, context), context
    )
    assert isinstance(replies, Replies)
    return replies


@pytest.mark.parametrize(("name", "least"), [("teacher", 0.95), ("weights", 0.9)])
def test_its_models_learn_are_compressed_and_reply(folder: Path, name: str, least: float) -> None:
    model, rows = opened(folder, name), tagged(ROWS["test"], 2)
    replies = model([row["text"] for row in rows])
    gold = [str(row["tags"]).split() for row in rows]
    right = np.mean([np.mean(np.array(a) == np.array(b)) for a, b in zip(replies, gold, strict=True)])
    assert right > least
    assert model(rows[0]["text"]) == replies[0] and model.answers([rows[0]["text"]]) == replies[:1]
    test = task_of(config_of(folder)).read(folder / "data", "test")
    assert read_config(folder / name)[0].output_names == test.labels == ("N", "O", "P")
    outputs = [model.output(test.encoded.batch(np.array([i])))[0] for i in range(len(test))]
    assert test.predictions("tag_accuracy", np.concatenate(outputs)).mean() == pytest.approx(right)


def test_its_file_needs_nothing_of_the_tests() -> None:
    """So it would be the same in `search/tasks/`."""
    tree = ast.parse(Path(tagging.__file__).read_text(encoding="utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert all(node.level == 0 for node in froms)
    own = {str(node.module).partition(".")[0] for node in froms} - set(sys.stdlib_module_names)
    assert own == {"search"}


def test_what_it_is_asked_is_checked(folder: Path) -> None:
    model = opened(folder, "teacher")
    with pytest.raises(TypeError, match="texts with a word or more"):
        model(["film", " "])
    assert model([]) == []


def test_it_can_be_named_and_listed(folder: Path) -> None:
    config = config_of(folder)
    assert (config.metric, objective_named("tag_accuracy").better) == ("tag_accuracy", "higher")
    lines = "\n".join(listing.lines())
    assert "tagging" in lines and "share of a text's words with the right tag" in lines
    assert "keys of data: text, text_pair, tags" in lines


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.tagz=x", 'data.tagz: unknown key; did you mean "data.tags"?'),
        ("data.tags=3", "data.tags: must be text"),
        ("data.tags=labels", 'unknown column "labels"'),
        ("data.label_names=[a]", "data.label_names: must be left out unless the task is classification"),
    ],
)
def test_its_keys_are_checked_as_any_others(folder: Path, override: str, message: str) -> None:
    def read() -> None:
        config = config_of(folder, override)
        task_of(config).load(config.data, config.where)

    with pytest.raises(UserError, match=re.escape(message)):
        read()


def test_a_model_without_its_head_is_trained_or_refused(folder: Path) -> None:
    described = model_config(folder / "bert", "bert")
    with pytest.raises(UserError, match=r"teacher.epochs: must be above 0: no trained head in .*BertModel"):
        trained_head(config_of(folder, "teacher.epochs=0"), described, folder / "bert")
