"""Exported folders by name, and checks of a model folder against its record before anything in it is opened."""

from __future__ import annotations

import json
from pathlib import Path

from objectives import quality
from search import tasks
from search.config.schema import is_study_name
from search.deliver.best_config import BestConfig, read_best_config
from search.deliver.export import EXPORTS, MODELS, PROGRAMS, RECIPE
from search.deliver.sentence_folder import TOKENIZER
from search.deliver.written_files import sha256
from search.errors import UserError, unknown
from search.front.outcome import LATENCY
from search.store.paths import expanded
from spaces import registry
from spaces.build import precision_of

FRONT = "front.json"  # in the export of a study
#: What reading the content of an edited or half-written `FRONT` raises.
NOT_OF_THE_SHAPE = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
#: Files that change a tokenizer or a model where they exist, so none of them may be added to an export.
READ_WHERE_PRESENT = ("adapter_config.json", "config.json", "generation_config.json", "model.safetensors", *TOKENIZER)


def exported_front(name: str, results: Path) -> Path:
    """The exported folder of a study, or that folder itself.

    Raises:
        UserError: there is none of this name, in the results folder or as a path.
    """
    path = expanded(name)
    if (path / FRONT).is_file():
        return path
    exported = results / EXPORTS / name
    if is_study_name(name) and (exported / FRONT).is_file():
        return exported
    raise UserError(f"STUDY_OR_DIR: no exported front: {name} is no folder with a {FRONT} and no study in {results}")


def exported_models(name: str, results: Path) -> list[Path]:
    """The folders of the members of an exported study, or that of one exported model.

    Raises:
        UserError: there is no such export, or a folder is that of another trial.
    """
    path = expanded(name)
    if (path / RECIPE).is_file():
        return [path]
    if path.is_dir() and not any((folder / FRONT).is_file() for folder in (path, results / EXPORTS / name)):
        raise UserError(f"STUDY_OR_DIR: must be an exported study or model, got {path}, a folder without a {RECIPE}")
    folder = exported_front(name, results)
    try:
        front = json.loads((folder / FRONT).read_text(encoding="utf-8"))
        study, task, numbers = str(front["study"]), str(front["task"]), [int(m["number"]) for m in front["members"]]
    except NOT_OF_THE_SHAPE as error:
        raise UserError(f"{folder / FRONT}: not the front of an export ({type(error).__name__}: {error})") from None
    if not numbers:
        raise UserError(f"{folder / FRONT}: a front without members")
    folders = {number: folder / MODELS / str(number) for number in numbers}
    for number, model in folders.items():
        check_member(model, study, task, number)
    return list(folders.values())


def read_exported(folder: Path) -> BestConfig:
    """The record of a model folder whose files match the digests in the record.

    Every file is read once for its SHA-256, which takes about a second per gigabyte.

    Raises:
        UserError: no such folder, no record, a runtime or task that this version does not know, or a file that is
            missing, added or changed.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    path = folder / RECIPE
    if not path.is_file():
        raise UserError(f"{folder}: no {RECIPE}; a folder under exports/<study>/models/ has one")
    record = read_best_config(path)
    for key, name, valid in (
        ("runtime", record.recipe.runtime.name, [runtime.name for runtime in registry.runtimes()]),
        ("task", record.recipe.task, [task.name for task in tasks.TASKS]),
    ):
        if name not in valid:
            raise unknown(f"{path}: recipe.{key}", key, name, valid)
    _check_config(record, path)
    for name, wanted in record.files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; the model was exported with it")
        try:
            digest = sha256(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read: {error.strerror or error}") from None
        if digest != wanted:
            raise UserError(
                f"{folder / name}: not the file that was exported: SHA-256 must be {wanted[:16]}..., "
                f"got {digest[:16]}..."
            )
    runs = registry.runtime_named(record.recipe.runtime.name).files(precision_of(record.recipe))
    # Programs are opened under their own seal alone, and made again where it does not hold.
    graphs = [name for name in runs if not name.endswith(PROGRAMS)]
    for name in (*READ_WHERE_PRESENT, *graphs):
        if name not in record.files and (folder / name).exists():
            raise UserError(
                f"{folder / name}: was added to the exported model, which is measured without it; remove it"
            )
    return record


def check_member(folder: Path, study: str, task: str, number: int) -> None:
    """Raise UserError where the record in the folder of a front's member is of another trial: folders were mixed up."""
    path = folder / RECIPE
    if not path.is_file():  # `read_exported` says what is missing
        return
    record = read_best_config(path)
    if (record.study, record.recipe.task, record.number) != (study, task, number):
        raise UserError(
            f"{path}: must be of trial {number} of study {study} ({task}), as its front says, "
            f"got trial {record.number} of study {record.study} ({record.recipe.task})"
        )


def _check_config(record: BestConfig, path: Path) -> None:
    """Raise UserError where the configuration has another task than the recipe, or a metric that was not measured."""
    task, metric = str(record.config["task"]), str(record.config["metric"])
    if task != record.recipe.task:
        raise UserError(f"{path}: config.task: must be that of the recipe, {record.recipe.task}, got {task}")
    metrics = [one.name for one in quality.metrics()]
    if metric not in metrics:
        raise unknown(f"{path}: config.metric", "metric", metric, metrics)
    for name in (metric, LATENCY):
        if name not in record.measurements:
            raise UserError(f"{path}: measurements: must hold {name}; the file was edited")
