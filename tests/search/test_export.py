"""Exports: whole or absent, self-consistent, and refused when they were tampered with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import search
from search.deliver import export as exporting
from search.deliver.best_config import BestConfig, read_best_config, schema
from search.deliver.export import PICK_FILES, export, export_model, exported_folder, files_of, programs_of
from search.deliver.read_exported import read_exported
from search.deliver.written_files import WRITTEN_JSON
from search.errors import UserError
from search.front.front import Front
from search.store.atomic import replacing, write_text
from spaces import registry
from spaces.build import precision_of
from spaces.recipe import Recipe
from spaces.runtime import Context
from spaces.runtimes import aot_inductor

from . import factory


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_an_export_has_the_promised_files_and_nothing_else(front: Front, exported: Path) -> None:
    top = {"front.json", "front.html", "front.png", *PICK_FILES.values(), WRITTEN_JSON}
    assert {n for n in names(exported) if not n.startswith("models/")} == top
    assert {p.name for p in (exported / "models").iterdir()} == {str(o.number) for o in front.members}


def test_a_model_folder_has_what_its_runtime_needs_and_no_more(front: Front, exported: Path) -> None:
    for outcome in front.members:
        files = names(exported_folder(exported, outcome))
        assert {"config.json", "model.safetensors", "recipe.yaml", "tokenizer.json", "vocab.txt"} <= files
        assert not {"entry.json", "optimizer.pt", ".partial.123"} & files
        bits = outcome.recipe.step("bits")
        graph = {f"onnx/{bits.settings['precision'] if bits else 'fp32'}.onnx"}
        assert {n for n in files if "/" in n} == (graph if outcome.recipe.runtime.name == "onnx" else set())


def test_a_graph_that_is_not_there_yet_is_left_to_the_runtime(tmp_path: Path) -> None:
    source = factory.weights(tmp_path, "a")
    (source / "onnx" / "fp32.onnx").unlink()
    assert "onnx/fp32.onnx" not in files_of(source, factory.recipe(runtime="onnx"))


def programs(source: Path) -> tuple[Recipe, str]:
    """A recipe that runs compiled code, and the name of that, which lies in `source` without a seal."""
    recipe = factory.recipe(runtime="aot_inductor")
    (package,) = registry.runtime_named("aot_inductor").files(precision_of(recipe))
    (source / package).parent.mkdir()
    (source / package).write_bytes(b"program")
    return recipe, package


def test_compiled_code_is_exported_with_its_seal_and_the_record_names_neither(tmp_path: Path) -> None:
    """So that it can be made again, where the seal does not hold, without the folder being another model."""
    source = factory.weights(tmp_path, "a")
    recipe, package = programs(source)
    (source / f"{package}.seal").write_bytes(b"seal")
    outcome = factory.outcome(0, candidate=recipe, folder=str(source))
    front = Front(factory.TARGETS, (outcome,))
    record = export_model(front, factory.study(front), outcome, tmp_path / "to")
    assert {name for name in names(tmp_path / "to") if "/" in name} == {package, f"{package}.seal"}
    assert (tmp_path / "to" / package).read_bytes() == b"program"
    assert "model.safetensors" in record.files and not [name for name in record.files if "/" in name]
    assert read_exported(tmp_path / "to") == record


def test_an_exported_folder_opens_without_compiling_and_a_changed_byte_never_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "key"))
    compiled: list[Path] = []

    def compile_to(folder: Path, plan: Any, context: Context, path: Path) -> None:
        compiled.append(folder)
        path.write_bytes(b"program %d" % len(compiled))

    monkeypatch.setattr(aot_inductor, "compile_package", compile_to)
    source, to, plan = factory.weights(tmp_path, "a"), tmp_path / "to", {"precision": "fp32"}
    aot_inductor.package(source, plan, Context())
    outcome = factory.outcome(0, candidate=factory.recipe(runtime="aot_inductor"), folder=str(source))
    front = Front(factory.TARGETS, (outcome,))
    export_model(front, factory.study(front), outcome, to)
    path = aot_inductor.package(to, plan, Context())
    assert (compiled, path.read_bytes()) == ([source], b"program 1") and path.is_relative_to(to)
    path.write_bytes(b"program 2")
    assert aot_inductor.package(to, plan, Context()) == path
    assert compiled == [source, to]
    assert read_exported(to).number == 0, "it is still the model that was exported"


def test_compiled_code_without_a_seal_is_not_exported(tmp_path: Path) -> None:
    """Nobody would open it."""
    source = factory.weights(tmp_path, "a")
    recipe, _ = programs(source)
    assert not [name for name in (*files_of(source, recipe), *programs_of(source, recipe)) if "/" in name]


@pytest.mark.parametrize("runtime", ["eager", "onnx"])
def test_compiled_code_of_another_runtime_stays(tmp_path: Path, runtime: str) -> None:
    source = factory.weights(tmp_path, "a")
    _, package = programs(source)
    (source / f"{package}.seal").write_bytes(b"seal")
    recipe = factory.recipe(runtime=runtime)
    assert package not in files_of(source, recipe) and programs_of(source, recipe) == []


def test_front_json_names_folders_that_exist(exported: Path) -> None:
    data = json.loads((exported / "front.json").read_text())
    jsonschema.validate(data, schema("front"))
    assert all((exported / member["folder"] / "recipe.yaml").is_file() for member in data["members"])


@pytest.mark.parametrize(("pick", "file"), PICK_FILES.items())
def test_pick_files_hold_the_pick(front: Front, exported: Path, pick: str, file: str) -> None:
    best = read_best_config(exported / file)
    assert best.recipe == front.picks[pick].recipe
    assert best.number == front.picks[pick].number
    assert best.measurements == front.picks[pick].measurements
    assert best.held_out["accuracy"].value == pytest.approx(front.picks[pick].value("accuracy") - 0.006)
    assert best.config == factory.CONFIG
    assert f"python -m search apply {file}" in (exported / file).read_text()


def test_the_record_in_a_model_folder_has_the_digests_of_its_files(front: Front, exported: Path) -> None:
    folder = exported_folder(exported, front.members[0])
    record = read_best_config(folder / "recipe.yaml")
    assert record.files.keys() == names(folder) - {"recipe.yaml", WRITTEN_JSON}
    for name, digest in record.files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_a_best_config_survives_json(front: Front) -> None:
    best = BestConfig.of(front, factory.study(front), front.members[0], {"model.safetensors": "0" * 64})
    data = json.loads(json.dumps(best.to_json("best-config.yaml")))
    jsonschema.validate(data, schema("best-config"))
    assert BestConfig.from_json(data) == best


def test_exporting_again_drops_models_that_left_the_front(front: Front, tmp_path: Path) -> None:
    export(front, factory.study(front), tmp_path)
    source = factory.weights(tmp_path / "cache", "99")
    grown = front.add(replace(factory.outcome(99, 0.99, 0.1), folder=str(source)))
    export(grown, factory.study(grown), tmp_path)
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["99"]
    assert read_best_config(tmp_path / "best-config.yaml").number == 99


def test_an_empty_front_exports_its_pictures_and_no_pick(front: Front, tmp_path: Path) -> None:
    export(front, factory.study(front), tmp_path)
    none = Front(front.targets)
    export(none, factory.study(none), tmp_path)
    assert names(tmp_path) == {"front.json", "front.html", "front.png", WRITTEN_JSON}


def test_missing_weights_are_named_and_nothing_is_left_half_written(tmp_path: Path) -> None:
    front = factory.front()
    with pytest.raises(UserError, match="trial 1: its weights must be in"):
        export_model(front, factory.study(front), front.outcomes[1], tmp_path / "models" / "1")
    assert names(tmp_path) == set()


def test_a_copy_that_fails_leaves_the_old_model_whole(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, study = front.members[0], factory.study(front)
    export_model(front, study, outcome, tmp_path / "1")
    before = names(tmp_path)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(exporting.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        export_model(front, study, outcome, tmp_path / "1")
    assert names(tmp_path) == before


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fails() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file"}


# --- before a model is opened -------------------------------------------------------------------------------


@pytest.fixture
def model(front: Front, exported: Path, tmp_path: Path) -> Path:
    """A folder of a model under ONNX Runtime, to spoil."""
    member = next(o for o in front.members if o.recipe.runtime.name == "onnx")
    return Path(shutil.copytree(exported_folder(exported, member), tmp_path / "model"))


def other_bytes(path: Path) -> None:
    """As many bytes, other ones."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("open_it", [search.load, read_exported], ids=["search.load", "check"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "onnx"])
def test_a_changed_or_a_missing_file_is_never_opened(model: Path, name: str, open_it: Callable[[Path], Any]) -> None:
    path = next((model / "onnx").iterdir()) if name == "onnx" else model / name
    other_bytes(path)
    with pytest.raises(UserError, match=f"{path.name}: not the file that was exported: SHA-256 must be"):
        open_it(model)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: missing; the model was exported with it"):
        open_it(model)


@pytest.mark.parametrize(
    "name", ["added_tokens.json", "special_tokens_map.json", "merges.txt", "generation_config.json"]
)
def test_a_file_that_was_added_and_that_would_be_read_is_refused(model: Path, name: str) -> None:
    (model / "notes.txt").write_text("mine")
    assert read_exported(model).files
    (model / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name}: was added to the exported model"):
        search.load(model)


@pytest.mark.parametrize("key", ["runtime", "task"])
def test_a_record_of_what_this_version_does_not_know_says_so(model: Path, key: str) -> None:
    data = yaml.safe_load((model / "recipe.yaml").read_text())
    if key == "runtime":
        data["recipe"]["runtime"]["name"] = "onyx"
    else:
        data["recipe"]["task"] = "onyx"
    data["digest"] = Recipe.from_json(data["recipe"]).digest
    (model / "recipe.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=rf'recipe\.yaml: recipe\.{key}: unknown {key} "onyx"'):
        search.load(model)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config.task", "causal-lm", "config.task: must be that of the recipe, classification, got causal-lm"),
        ("config.metric", "acuracy", 'config.metric: unknown metric "acuracy"; did you mean "accuracy"'),
        ("config.metric", "perplexity", "measurements: must hold perplexity; the file was edited"),
        ("measurements.latency_p50_ms", None, "measurements: must hold latency_p50_ms; the file was edited"),
    ],
)
def test_an_edited_record_is_one_clear_error(model: Path, key: str, value: Any, message: str) -> None:
    data = yaml.safe_load((model / "recipe.yaml").read_text())
    section, leaf = key.split(".")
    data[section].pop(leaf)
    if value is not None:
        data[section][leaf] = value
    (model / "recipe.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=rf"recipe\.yaml: {message}"):
        read_exported(model)


def test_a_file_that_cannot_be_read_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.deliver import read_exported as checks

    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks, "sha256", refused)
    with pytest.raises(UserError, match=r"config\.json: cannot be read: Permission denied"):
        read_exported(model)
