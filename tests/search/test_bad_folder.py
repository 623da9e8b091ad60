"""Damaged results: best-config files, exported models and studies that are not what they were."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import command
import pytest
from conftest import STUDY, Finished, state_of

from search.deliver.best_config import BEST_CONFIG_VERSION


def cut(path: Path) -> None:
    """The first half of the file, without its end."""
    text = path.read_text()
    path.write_text(text[: len(text) // 2])


def edited(path: Path) -> None:
    """As if a user had tried another model by hand."""
    text = path.read_text()
    assert "task: classification" in text
    path.write_text(text.replace("task: classification", "task: ranking"))


def newer(path: Path) -> None:
    text = path.read_text()
    assert f"schema_version: {BEST_CONFIG_VERSION}\n" in text
    path.write_text(text.replace(f"schema_version: {BEST_CONFIG_VERSION}", "schema_version: 99", 1))


#: Name of the damage -> (what is done to best-config.yaml, what the message must hold).
FILES: Mapping[str, tuple[Callable[[Path], object], list[str]]] = {
    "a best-config file that is cut": (cut, ["best.yaml: ", "truncated"]),
    "a best-config file that was edited": (edited, ["best.yaml: recipe: was edited", "digest"]),
    "a best-config file of a newer version": (newer, ["best.yaml: schema_version: must be at most", "got 99"]),
    "a best-config file that is missing": (Path.unlink, ["best.yaml: no such file"]),
    "a best-config file that is something else": (
        lambda path: path.write_text("[1, 2]"),
        ["best.yaml: must be a best"],
    ),
}


def pickled(folder: Path) -> None:
    """Weights as torch.save writes them, under the name of the weights."""
    import torch

    torch.save({"weight": torch.ones(2)}, folder / "model.safetensors")


def other_weights(folder: Path) -> None:
    """Those of another model, which lie beside it for this."""
    shutil.copyfile(folder.with_name("other.safetensors"), folder / "model.safetensors")


#: Name of the damage -> (what is done to the model folder, what the message must hold).
MODELS: Mapping[str, tuple[Callable[[Path], object], list[str]]] = {
    "a model folder that is missing": (shutil.rmtree, ["model: no such model folder"]),
    "a model folder without its record": (lambda f: (f / "recipe.yaml").unlink(), ["no recipe.yaml"]),
    "a model without weights": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors: missing"]),
    "a model with foreign weights": (other_weights, ["model.safetensors: not the file that was exported"]),
    "a model with a pickle for weights": (pickled, ["model.safetensors: not the file that was exported"]),
    "a model with another config": (lambda f: (f / "config.json").write_text("{}"), ["config.json: not the file that"]),
}

#: Name of the mistake -> (arguments, what the message must hold); they run where the finished search ran.
COMMANDS: Mapping[str, tuple[list[str], list[str]]] = {
    "a study that does not exist": (["front", "tinny"], ["no study 'tinny'", 'did you mean "tiny"?']),
    "an export of no study": (["export", "tinny"], ["no study 'tinny'", 'did you mean "tiny"?']),
    "a pick that does not exist": (["export", STUDY, "--pick", "quickest"], ["quickest", "fastest"]),
    "a trial that does not exist": (["export", STUDY, "--pick", "99"], ["99"]),
    "a study with another space": (
        ["run", "CONFIG", "--set", "space.prune.neurons=off"],
        [f"--study {STUDY}: it exists in", "with another", "prune", "--study NAME"],
    ),
    "a study with another seed": (["run", "CONFIG", "--set", "seed=7"], ["with another seed: 0 there, 7 now"]),
    "a UI without a store": (["ui", "--mlruns", "nowhere"], ["--mlruns: no MLflow store in"]),
    "results that do not exist": (["front", STUDY, "--mlruns", "nowhere"], [f"no study '{STUDY}'", "nowhere"]),
}


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def running(
    finished: Finished, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[command.Ended]]]:
    """Every command, under way."""
    world = tmp_path_factory.mktemp("damaged")
    commands: dict[str, list[object]] = {}
    for number, (name, (damage, _)) in enumerate(FILES.items()):
        best = world / str(number) / "best.yaml"
        best.parent.mkdir()
        shutil.copyfile(finished.exports / "best-config.yaml", best)
        damage(best)
        commands[name] = ["apply", best]
    own = (finished.models()[0] / "model.safetensors").read_bytes()
    other = next(p for p in finished.mlruns.glob("cache/*/*/model.safetensors") if p.read_bytes() != own)
    for number, (name, (damage, _)) in enumerate(MODELS.items()):
        here = world / f"model-{number}"
        shutil.copytree(finished.models()[0], here / "model")
        shutil.copyfile(other, here / "other.safetensors")
        damage(here / "model")
        commands[name] = ["check", here / "model"]
    for name, (arguments, _) in COMMANDS.items():
        commands[name] = [finished.config if argument == "CONFIG" else argument for argument in arguments]
    alone = threading.Lock()  # two runs of one study at once are another mistake

    def ended(arguments: list[object]) -> command.Ended:
        with alone if arguments[0] == "run" else nullcontext():
            return command.search(*arguments, cwd=finished.folder, one_core_only=False)

    with ThreadPoolExecutor(command.AT_ONCE) as pool:
        yield {name: pool.submit(ended, arguments) for name, arguments in commands.items()}


@pytest.fixture(scope="module")
def before(finished: Finished) -> dict[str, str]:
    return contents(finished.mlruns / "exports") | {"optuna": str(state_of(finished.mlruns).outcomes)}


@pytest.mark.parametrize("damage", [*FILES, *MODELS, *COMMANDS])
def test_what_is_wrong_is_named_and_nothing_changes(
    before: dict[str, str], running: Mapping[str, Future[command.Ended]], finished: Finished, damage: str
) -> None:
    command.refused(running[damage].result(), ({**FILES, **MODELS, **COMMANDS})[damage][1])
    assert contents(finished.mlruns / "exports") | {"optuna": str(state_of(finished.mlruns).outcomes)} == before
    assert not (finished.folder / "nowhere").exists()
