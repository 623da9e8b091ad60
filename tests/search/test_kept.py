"""Which measurements a later search finds again: whole ones, of the same weights, held against the same teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from objectives.latency import P50
from objectives.measurement import Measurement
from objectives.quality import metric_named
from search.config.schema import DataConfig, LimitsConfig
from search.front.outcome import LATENCY, Target
from search.measure.cache import Reuse
from search.store.store import Store
from search.tasks.documents import DocumentData
from search.tasks.questions import QuestionData
from spaces.base import WEIGHTS
from spaces.recipe import Recipe, Step
from spaces.runtime import Context
from spaces.runtimes import onnx

DATA = QuestionData("train.csv")
RECIPE = Recipe("m", "", "t", (), {}, Step("eager"))
FOUND: dict[str, Measurement] = {
    "accuracy": metric_named("accuracy").objective.counted(0.8, {}),
    LATENCY: P50.counted(2.0, {}),
}


def folder_of(store: Store, stage: str, content: bytes) -> Path:
    return store.make(stage, {"content": content.hex()}, lambda folder: _write(folder, content))[0]


def _write(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)


def reuse(
    store: Store,
    teacher: bytes = b"teacher",
    wanted: tuple[str, ...] = ("accuracy", LATENCY),
    data: DataConfig = DATA,
) -> Reuse:
    """Of a search with these objectives, whose teacher's weights have this content."""
    config = SimpleNamespace(
        data=data,
        measure=SimpleNamespace(reuse=True, quick_s=1.0, validation_rows=None),
        limits=LimitsConfig(),
        metric="accuracy",
        objectives=("metric", LATENCY),
        seed=0,
    )
    setting = SimpleNamespace(
        config=config,
        store=store,
        context=Context(),
        environment={},
        about_data={"digest": "d"},
        teacher=folder_of(store, "teacher", teacher),
        targets=tuple(Target(name, "higher") for name in wanted),
    )
    timings = SimpleNamespace(marks=(), inputs=lambda mark: ([], {}), counted_now=dict)
    return Reuse(cast(Any, setting), cast(Any, timings))


def test_what_is_whole_is_found_again_for_the_same_weights_and_teacher(tmp_path: Path) -> None:
    store = Store(tmp_path)
    weights, others = folder_of(store, "weights", b"one"), folder_of(store, "weights", b"two")
    reuse(store).keep(RECIPE, weights, FOUND)
    measurements = reuse(store).find(RECIPE, weights)
    assert measurements is not None and {n: m.value for n, m in measurements.items()} == {
        n: m.value for n, m in FOUND.items()
    }
    assert reuse(store).find(RECIPE, others) is None, "the recipe, trained to other numbers"
    for data, what in (
        (QuestionData("train.csv", null_threshold=1.0), "other questions have no answer"),
        (QuestionData("train.csv", max_answer_len=15), "other spans may be the answer"),
        (DocumentData("train.csv", scored_tokens=9), "other tokens are scored"),
    ):
        assert reuse(store, data=data).find(RECIPE, weights) is None, what
    assert reuse(store, teacher=b"another").find(RECIPE, weights) is None, "losses are counted from the teacher"


def test_what_was_measured_of_a_graph_that_other_code_wrote_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    weights, of_graph = folder_of(store, "weights", b"one"), replace(RECIPE, runtime=Step("onnx"))
    reuse(store).keep(of_graph, weights, FOUND)
    assert reuse(store).find(of_graph, weights) is not None
    monkeypatch.setattr(onnx, "code_digest", lambda *modules: "of other code")
    assert reuse(store).find(of_graph, weights) is None


def test_what_is_not_all_that_is_asked_for_is_not_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    weights, wanted = folder_of(store, "weights", b"one"), ("accuracy", LATENCY, "energy_mj")
    reuse(store, wanted=wanted).keep(RECIPE, weights, FOUND)
    assert reuse(store, wanted=wanted).find(RECIPE, weights) is None


@pytest.mark.parametrize("name", [LATENCY, f"{LATENCY}/b32"])
def test_what_was_noisy_under_any_workload_is_measured_again(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    weights = folder_of(store, "weights", b"one")
    noisy = replace(P50.counted(2.0, {"noisy": "another process ran"}), objective=name)
    reuse(store).keep(RECIPE, weights, {**FOUND, name: noisy})
    later = reuse(store)
    assert later.find(RECIPE, weights) is None
    later.recalled = {RECIPE.digest}
    assert later.find(RECIPE, weights) is not None, "an equal search repeats the trials of the earlier one"
