"""What runtimes make of weights: entries of the store of their own, by all that determines them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished

from search.deliver.export import export_model
from search.deliver.read_exported import read_exported
from search.deliver.written_files import sha256
from search.errors import UserError
from search.front.front import Front
from search.measure.graphs import GRAPHS_STAGE, Graphs, made_by
from search.store.store import MANIFEST, Store, digest_in
from spaces import registry
from spaces.base import Base
from spaces.knob import Plan
from spaces.recipe import Recipe
from spaces.runtime import Context
from spaces.runtimes import onnx

from . import factory

CPU = Context(threads=1)


class FakeOpener:
    """Stands in for a process that opens a model, and so makes what its runtime runs."""

    def __init__(self) -> None:
        self.written: list[tuple[str, list[str]]] = []

    def __call__(self, folder: Path, runtime: str, plan: Plan, context: Context) -> None:
        assert (folder / "model.safetensors").read_bytes() == b"weights", "what it is made of is there"
        there = sorted(p.name for p in folder.glob("onnx/*"))
        for name in registry.runtime_named(runtime).files(plan):
            self.written.append((name, there))
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"{name} number {len(self.written)}")
        (folder / "onnx" / "a-step-on-the-way.onnx").write_text("x")


def weights(store: Store, content: bytes = b"weights", calibration: str = "{}") -> Path:
    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content)
        base = Base("m", "main", "mean", ("no", "yes"), ("input_ids", "attention_mask"), {"model_type": "bert"})
        (folder / "config.json").write_text(json.dumps({"base": base.to_json(), "plans": {}}))
        for name in ("tokenizer.json", "calibration.npz"):
            (folder / name).write_text(calibration if name == "calibration.npz" else "{}")

    return store.make("weights", {"content": content.hex(), "calibration": calibration}, fill)[0]


def recipe(precision: str = "fp32", runtime: str = "onnx") -> Recipe:
    return factory.recipe({} if precision == "fp32" else {"bits": {"precision": precision}}, runtime)


def unlike_their_manifests(root: Path) -> dict[str, Any]:
    """Every published entry whose files are not those of its manifest."""
    differences: dict[str, Any] = {}
    for manifest in root.glob(f"[!.]*/[!.]*/{MANIFEST}"):
        folder = manifest.parent
        listed = {name: digest for name, (_, digest) in json.loads(manifest.read_text())["files"].items()}
        there = {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file() and p != manifest}
        if there != listed:
            differences[str(folder)] = there.keys() ^ listed.keys() or "digests"
    return differences


def test_after_a_search_every_published_entry_is_what_it_was_when_it_was_published(finished: Finished) -> None:
    assert unlike_their_manifests(finished.mlruns / "cache") == {}
    stages = {manifest.parents[1].name for manifest in finished.mlruns.glob(f"cache/*/*/{MANIFEST}")}
    assert {"weights", "teacher", GRAPHS_STAGE, "references"} <= stages
    assert [*finished.mlruns.glob("cache/weights/*/onnx"), *finished.mlruns.glob("cache/teacher/*/onnx")] == []
    for model in finished.models():
        read_exported(model)


def test_a_graph_is_an_entry_of_its_own_and_made_once(tmp_path: Path) -> None:
    store, opener = Store(tmp_path), FakeOpener()
    source = weights(store)
    folder = Graphs(store, opener).folder(recipe(), source, CPU)
    assert (
        folder.parent.name == GRAPHS_STAGE and (folder / "onnx" / "fp32.onnx").read_text() == "onnx/fp32.onnx number 1"
    )
    assert {p.name for p in folder.iterdir()} == {p.name for p in source.iterdir()} | {"onnx"}
    assert [p.name for p in (folder / "onnx").iterdir()] == ["fp32.onnx"]
    assert Graphs(Store(tmp_path), opener).folder(recipe(), source, CPU) == folder
    assert Graphs(store, opener).folder(recipe(runtime="eager"), source, CPU) == source
    assert len(opener.written) == 1 and unlike_their_manifests(tmp_path) == {}


def test_int4_of_pytorch_is_made_once_for_its_runtimes(tmp_path: Path) -> None:
    store, opened = Store(tmp_path), list[str]()
    source, device = weights(store), Context("cuda")

    def opener(folder: Path, runtime: str, plan: Plan, context: Context) -> None:
        opened.append(runtime)
        [name] = registry.runtime_named(runtime).files(plan)
        (folder / name).parent.mkdir()
        (folder / name).write_text("integers")

    runtimes = ("eager", "compiled", "cuda_graph")
    [folder] = {Graphs(store, opener).folder(recipe("int4", name), source, device) for name in runtimes}
    assert opened == ["eager"] and (folder / "pytorch" / "int4.safetensors").read_text() == "integers"
    assert made_by(recipe("int4", "eager"), source, device)["made_by"].keys() == {"code"}
    assert made_by(recipe("bf16", "eager"), source, device) == {}


def test_an_integer_graph_is_made_from_the_plain_one_that_is_there(tmp_path: Path) -> None:
    store, opener = Store(tmp_path), FakeOpener()
    source, graphs = weights(store), Graphs(store, opener)
    folders = {
        precision: graphs.folder(recipe(precision), source, CPU) for precision in ("int8", "int8-static", "fp32")
    }
    assert len(set(folders.values())) == 3
    assert opener.written == [
        ("onnx/fp32.onnx", []),
        ("onnx/int8.onnx", ["fp32.onnx"]),
        ("onnx/int8-static.onnx", ["fp32.onnx"]),
    ]
    assert [p.name for p in (folders["int8"] / "onnx").iterdir()] == ["int8.onnx"]
    assert (folders["fp32"] / "onnx" / "fp32.onnx").read_text() == "onnx/fp32.onnx number 1"
    assert unlike_their_manifests(tmp_path) == {}


@pytest.mark.parametrize("embeddings", [{}, {"embeddings": "int8"}])
@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-static", "int4"])
def test_the_plan_that_a_graph_is_made_from_ends_at_the_export(precision: str, embeddings: Plan) -> None:
    steps: list[Plan] = [{"precision": precision, **embeddings}]
    while (source := onnx.source_of(steps[-1])) is not None:
        steps.append(source)
        assert len(steps) <= 3
    assert steps[-1] == {"precision": "fp32"}


def test_another_exporter_or_other_weights_make_another_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, opener = Store(tmp_path), FakeOpener()
    first = Graphs(store, opener).folder(recipe(), weights(store), CPU)
    monkeypatch.setattr(onnx, "versions", lambda: {"torch": "0.0"})
    upgraded = Graphs(store, opener).folder(recipe(), weights(store), CPU)
    assert upgraded != first and len(opener.written) == 2
    assert "number 1" in (first / "onnx" / "fp32.onnx").read_text(), "the old one is as it was"


def test_other_code_or_another_calibration_makes_another_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, opener = Store(tmp_path), FakeOpener()
    source, static = weights(store), recipe("int8-static")
    first = Graphs(store, opener).folder(static, source, CPU)
    others = weights(store, calibration="other rows")
    assert digest_in(others, "model.safetensors") == digest_in(source, "model.safetensors")
    assert Graphs(store, opener).folder(static, others, CPU) != first
    monkeypatch.setattr(onnx, "code_digest", lambda *modules: "of other code")
    assert Graphs(store, opener).folder(static, source, CPU) != first


def test_keys_of_what_is_measured_have_what_made_the_graph_and_what_it_was_calibrated_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    source, others = weights(store), weights(store, calibration="other rows")
    assert made_by(recipe(runtime="eager"), source, CPU) == {}
    plain, static = recipe(), recipe("int8-static")
    assert made_by(plain, source, CPU) == made_by(plain, others, CPU), "it is calibrated by nothing"
    assert made_by(static, source, CPU) != made_by(static, others, CPU)
    before = made_by(plain, source, CPU)
    monkeypatch.setattr(onnx, "code_digest", lambda *modules: "of other code")
    assert made_by(plain, source, CPU) != before


def test_the_versions_of_what_makes_graphs_are_those_that_are_installed() -> None:
    import torch

    assert onnx.versions()["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert {"onnxscript", "onnx", "onnxruntime"} <= onnx.versions().keys()


def test_a_graph_whose_weights_were_evicted_is_made_again_with_them_and_links_survive_a_move(tmp_path: Path) -> None:
    import shutil

    store, opener = Store(tmp_path / "here" / "cache"), FakeOpener()
    source = weights(store)
    folder = Graphs(store, opener).folder(recipe(), source, CPU)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = Store(tmp_path / "there" / "cache")
    source = weights(moved)
    assert Graphs(moved, opener).folder(recipe(), source, CPU).name == folder.name and len(opener.written) == 1
    shutil.rmtree(source)
    folder = Graphs(moved, opener).folder(recipe(), weights(moved), CPU)
    assert len(opener.written) == 1, "the same weights were made: the links hold again"
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(folder: Path, *_: object) -> None:
        (folder / "half").touch()
        raise ValueError("no kernel")

    with pytest.raises(ValueError, match="no kernel"):
        Graphs(store, fail).folder(recipe(), weights(store), CPU)
    assert list((tmp_path / GRAPHS_STAGE).iterdir()) == []


def test_an_export_copies_the_graph_beside_the_weights_and_no_link(tmp_path: Path) -> None:
    store, opener = Store(tmp_path / "cache"), FakeOpener()
    outcome = factory.outcome(0, candidate=recipe("int8"), folder=str(weights(store)))
    front = Front(factory.TARGETS, (outcome,))
    graphs = Graphs(store, opener)
    to = tmp_path / "to"
    record = export_model(
        front, factory.study(front), outcome, to, lambda o: graphs.folder(o.recipe, Path(o.folder), CPU)
    )
    assert "onnx/int8.onnx" in record.files and not any(path.is_symlink() for path in to.rglob("*"))
    assert (to / "model.safetensors").read_bytes() == b"weights"
    assert read_exported(to) == record


def test_a_graph_that_was_put_into_an_export_is_never_opened(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    outcome = factory.outcome(0, candidate=recipe(), folder=str(weights(store)))
    front = Front(factory.TARGETS, (outcome,))
    to = tmp_path / "to"
    export_model(front, factory.study(front), outcome, to)  # without its graph
    read_exported(to)
    (to / "onnx").mkdir()
    (to / "onnx" / "fp32.onnx").write_text("planted")
    with pytest.raises(UserError, match=r"fp32\.onnx: was added to the exported model"):
        read_exported(to)


def test_a_folder_that_is_no_entry_has_its_graphs_beside_its_weights(tmp_path: Path) -> None:
    opener = FakeOpener()
    source = factory.weights(tmp_path, "weights")
    assert Graphs(Store(tmp_path / "cache"), opener).folder(recipe(), source, CPU) == source
    assert opener.written == []
