"""Stages that were killed go on where they were."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from fake_cuda import fake_cuda
from safetensors.torch import load_file

from search.config.load import load_config
from search.config.schema import RunConfig
from search.errors import UserError
from search.execute.build_weights import build_weights, trained_s
from search.prepare.data import prepare_data
from search.prepare.model import describe_model
from search.prepare.statistics import make_statistics
from search.prepare.teacher import make_teacher
from search.prepare.teacher_outputs import make_outputs
from search.space.choices import names
from search.tasks import task_of
from spaces import checkpoints
from spaces.recipe import Step

STEPS = (Step("distill", {"layers": 1}),)
NOTHING: Callable[[str, float], None] = lambda stage, done: None  # noqa: E731


class Killed(Exception):  # noqa: N818 - what stands in for a kill
    pass


@dataclass
class Counting:
    """Counts a stage's steps, and ends it after `limit` of them."""

    stage: str
    limit: int = 10**9
    steps: int = 0

    def __call__(self, stage: str, done: float) -> None:
        self.steps += stage == self.stage
        if self.steps == self.limit:
            raise Killed


@dataclass(frozen=True)
class RecoveryInputs:
    """What a recovery needs."""

    config: RunConfig
    data: Path
    teacher: Path
    statistics: Path
    outputs: Path
    recover: dict[str, Any]

    def weights(self, folder: Path, scratch: Path, progress: Any = NOTHING) -> bytes:
        where = (self.data, self.teacher, self.statistics, self.outputs, "cpu", 1, scratch)
        build_weights(place(folder), self.config, STEPS, self.recover, *where, progress=progress)
        assert trained_s(folder) > 0
        return (folder / "model.safetensors").read_bytes()

    def trained(self, folder: Path, scratch: Path, progress: Any = NOTHING) -> bytes:
        make_teacher(place(folder), self.config, self.data, "cpu", 1, scratch, progress=progress)
        return (folder / "model.safetensors").read_bytes()


def place(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def recovery(config: Path, tmp_path_factory: pytest.TempPathFactory) -> RecoveryInputs:
    root = tmp_path_factory.mktemp("stages")
    chosen = load_config(config, ["teacher.epochs=1", "recover.early_stopping=2"], names())
    data, teacher, statistics, outputs = (place(root / name) for name in ("data", "teacher", "statistics", "outputs"))
    describe_model(place(root / "model"), chosen, NOTHING)
    prepare_data(data, chosen, root / "model", NOTHING)
    make_teacher(teacher, chosen, data, "cpu", 1, root / "none", NOTHING)
    make_statistics(statistics, chosen, data, teacher, "cpu", 1, NOTHING)
    make_outputs(outputs, chosen, data, teacher, "cpu", 1, NOTHING)
    recover = {name: value or 0 for name, value in chosen.to_mapping()["recover"].items()}
    return RecoveryInputs(chosen, data, teacher, statistics, outputs, recover)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is an hour after the one before."""
    clock = itertools.count(step=3600)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("stage", ["teacher", "recovery"])
def test_a_stage_that_was_killed_goes_on_to_the_same_weights(
    recovery: RecoveryInputs, tmp_path: Path, stage: str
) -> None:
    make = {"teacher": recovery.trained, "recovery": recovery.weights}[stage]
    all_of, rest = Counting(stage), Counting(stage)
    whole = make(tmp_path / "whole", tmp_path / "other", progress=all_of)
    with pytest.raises(Killed):
        make(tmp_path / "killed", tmp_path / "scratch", progress=Counting(stage, 4))
    assert make(tmp_path / "again", tmp_path / "scratch", progress=rest) == whole
    assert rest.steps == all_of.steps - 3


def test_a_training_that_diverges_names_its_rate(config: Path, recovery: RecoveryInputs, tmp_path: Path) -> None:
    overrides = ("teacher.epochs=1", "teacher.learning_rate=1.0e+30", "recover.learning_rate=1.0e+30")
    fast = load_config(config, overrides, names())
    recover = {**recovery.recover, "learning_rate": 1e30}
    diverging = replace(recovery, config=fast, recover=recover)
    rule = "learning_rate: must be a rate at which the training stays finite, got 1e.30"
    with pytest.raises(UserError, match=f"teacher.{rule} .teacher.head_learning_rate is 0.01.: "):
        diverging.trained(tmp_path / "teacher", tmp_path / "one")
    with pytest.raises(FloatingPointError, match=f"recover.{rule}: "):
        diverging.weights(tmp_path / "weights", tmp_path / "other")


def test_a_loss_that_is_no_number_from_the_start_is_not_blamed_on_the_rate(
    config: Path, recovery: RecoveryInputs, tmp_path: Path
) -> None:
    cold = load_config(config, ("teacher.epochs=1", "recover.temperature=1.0e-40"), names())
    frozen = replace(recovery, config=cold, recover={**recovery.recover, "temperature": 1e-40})
    with pytest.raises(FloatingPointError, match=r"the loss of the first batch is nan; recover\.temperature"):
        frozen.weights(tmp_path / "weights", tmp_path / "other")


def test_labels_are_stored_as_they_are_under_any_locale(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing else is named, text has the encoding of the locale: here ASCII."""
    rows = [{"text": row["text"], "label": f"{row['label']} é"} for row in tiny.sentences(60, 1)]
    tiny.write_csv(tmp_path / "train.csv", rows)
    split = [f"data.train={tmp_path / 'train.csv'}", "data.validation=null", "data.test=null"]
    chosen = load_config(config, split, names())
    write, read = Path.write_text, Path.read_text
    monkeypatch.setattr(Path, "write_text", lambda path, text, encoding="ascii", **more: write(path, text, encoding))
    monkeypatch.setattr(Path, "read_text", lambda path, encoding="ascii", **more: read(path, encoding))
    describe_model(place(tmp_path / "model"), chosen, NOTHING)
    prepare_data(place(tmp_path / "data"), chosen, tmp_path / "model", NOTHING)
    assert task_of(chosen).read(tmp_path / "data", "train").labels == ("negative é", "positive é")


def test_half_an_epoch_of_recovery_asks_the_teacher_about_half_of_the_rows(
    config: Path, recovery: RecoveryInputs, tmp_path: Path
) -> None:
    short = load_config(config, ["teacher.epochs=1", "recover.epochs=0.5", "recover.batch=4"], names())
    whole = load_config(config, ["teacher.epochs=1", "recover.batch=4"], names())
    recover = {name: value or 0 for name, value in short.to_mapping()["recover"].items()}
    stored, weights = [], []
    for name, chosen in (("short", short), ("whole", whole)):
        outputs = place(tmp_path / name)
        make_outputs(outputs, chosen, recovery.data, recovery.teacher, "cpu", 1, NOTHING)
        stored.append(load_file(outputs / "outputs.safetensors"))
        one = replace(recovery, config=short, outputs=outputs, recover=recover)
        one.weights(tmp_path / f"{name}-weights", tmp_path / f"{name}-scratch")
        weights.append(load_file(tmp_path / f"{name}-weights" / "model.safetensors"))
    asked = [int((arrays["starts"] >= 0).sum()) for arrays in stored]
    assert abs(asked[0] - asked[1] / 2) <= 4 and len(stored[0]["hidden"]) < 0.7 * len(stored[1]["hidden"])
    for key, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][key], atol=1e-4, rtol=1e-3)


def test_every_stage_keeps_its_tensors_on_the_device_it_is_given(
    recovery: RecoveryInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a pretend CUDA device that refuses an operation over tensors of two devices."""
    places = {name: place(tmp_path / name) for name in ("teacher", "statistics", "outputs", "stored", "live")}
    live = {
        **recovery.recover,
        "block_weight": 0.5,
        "relation_weight": 0.5,
    }  # from the teacher as it runs, not as stored
    scratch = tmp_path / "scratch"
    used = {}
    with fake_cuda(monkeypatch) as device:
        make_teacher(places["teacher"], recovery.config, recovery.data, "cuda", 1, scratch, NOTHING)
        used["teacher"], device.used = device.used, 0
        make_statistics(places["statistics"], recovery.config, recovery.data, recovery.teacher, "cuda", 1, NOTHING)
        used["statistics"], device.used = device.used, 0
        make_outputs(places["outputs"], recovery.config, recovery.data, recovery.teacher, "cuda", 1, NOTHING)
        used["outputs"], device.used = device.used, 0
        inputs = (recovery.data, recovery.teacher, places["statistics"], places["outputs"], "cuda", 1)
        for name, recover in (("stored", recovery.recover), ("live", live)):
            where = (*inputs, tmp_path / f"{name}.scratch")
            build_weights(places[name], recovery.config, STEPS, recover, *where, progress=NOTHING)
            used[name], device.used = device.used, 0
    assert all(count > 100 for count in used.values()), used
    for name, file in (("statistics", "statistics.safetensors"), ("outputs", "outputs.safetensors")):
        tensors, wanted = (load_file(folder / file) for folder in (places[name], getattr(recovery, name)))
        assert tensors.keys() == wanted.keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, wanted[key], atol=1e-4, rtol=1e-3)


def test_the_pretend_device_refuses_what_a_real_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch):
        here, there = torch.ones(3, device="cpu"), torch.ones(3, device="cpu").to("cuda")
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there.cpu() + here).sum().item() == 6
        assert (there * 2).device.type == "cuda" and here.device.type == "cpu"
