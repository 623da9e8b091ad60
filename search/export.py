"""What a search leaves on disk: the front, its pictures, best-config files, and a folder for each model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import spaces
from search.atomic import remove, replacing, sweep, write_text
from search.best_config import BestConfig, plain
from search.errors import UserError
from search.front import Front, Outcome
from search.picture import front_png
from search.report import Study, front_json
from search.report_html import front_html
from spaces.build import precision_of
from spaces.recipe import Recipe
from spaces.runtimes.seal import beside

#: The file that names each pick.
PICK_FILES = {
    "balanced": "best-config.yaml",
    "fastest": "fastest.yaml",
    "most-accurate": "most-accurate.yaml",
}
EXPORTED = ("front.json", "front.html", "front.png", *PICK_FILES.values())
RECIPE = "recipe.yaml"  # in a model folder: the best-config file of that model

#: What a model folder takes along: weights, configuration, tokenizer. Never a pickle, nor a stage's manifest.
TAKEN = (".json", ".safetensors", ".txt", ".model", ".jinja")
LEFT = ("entry.json",)
#: Compiled code: a program, opened only under the seal of the user who made it (`spaces.runtimes.seal`).
PROGRAMS = (".pt2",)


def export(front: Front, study: Study, folder: Path) -> None:
    """Write the front's files and models to `folder`, each of them whole or not at all.

    Models come first and the files that name them after, so that no file names a model that is not there yet;
    models that left the front are removed last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    sweep(folder / "models")
    made = {o.number: export_model(front, study, o, model_folder(folder, o)) for o in front.members}
    for name, file in PICK_FILES.items():
        if name in front.picks:
            write_text(folder / file, made[front.picks[name].number].to_yaml(file))
        else:
            remove(folder / file)
    with replacing(folder / "front.png") as partial:
        front_png(front, study, partial)
    write_text(folder / "front.html", front_html(front, study))
    write_text(folder / "front.json", json.dumps(plain(front_json(front, study)), indent=1) + "\n")
    for path in (folder / "models").glob("[0-9]*"):
        if path.name not in map(str, made):
            remove(path)


def model_folder(folder: Path, outcome: Outcome) -> Path:
    """Where the model of `outcome` lies in the export `folder`."""
    return folder / "models" / str(outcome.number)


def export_model(front: Front, study: Study, outcome: Outcome, folder: Path) -> BestConfig:
    """Write the model of `outcome` to `folder`, with its record as `recipe.yaml`; returns the record.

    Raises:
        UserError: its weights are no longer where the search stored them.
    """
    source = Path(outcome.folder)
    if not outcome.folder or not (source / "model.safetensors").is_file():
        raise UserError(
            f"trial {outcome.number}: its weights must be in {source}, and are not; "
            "the same `run` command builds them again"
        )
    with replacing(folder) as partial:
        partial.mkdir()
        for name in files_of(source, outcome.recipe):
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, partial / name)
        if outcome.number in study.checks:
            shutil.copyfile(study.checks[outcome.number], partial / "reference.npz")
        made = BestConfig.of(front, study, outcome, _digests(partial))
        # After the digests: a program is made again where its seal does not hold, and is no other model then.
        for name in programs_of(source, outcome.recipe):
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, partial / name)
        (partial / RECIPE).write_text(made.to_yaml(RECIPE), encoding="utf-8")
    return made


def files_of(source: Path, recipe: Recipe) -> list[str]:
    """Names, relative to `source`, of the files that a model of this recipe needs wherever it is opened."""
    top = [p for p in source.iterdir() if p.is_file() and p.suffix in TAKEN and p.name not in LEFT]
    graphs = [source / name for name in _runs(recipe) if not name.endswith(PROGRAMS)]
    found = {str(p.relative_to(source)) for p in [*top, *graphs] if p.is_file() and not p.name.startswith(".")}
    return sorted(found)


def programs_of(source: Path, recipe: Recipe) -> list[str]:
    """Names, relative to `source`, of the compiled code of this recipe, and of its seals; none without a seal."""
    programs = [source / name for name in _runs(recipe) if name.endswith(PROGRAMS)]
    pairs = [(path, beside(path)) for path in programs if path.is_file() and beside(path).is_file()]
    return [str(path.relative_to(source)) for pair in pairs for path in pair]


def _runs(recipe: Recipe) -> tuple[str, ...]:
    """The files that the runtime makes of the weights, and runs."""
    return spaces.runtime(recipe.runtime.name).files(precision_of(recipe))


def _digests(folder: Path) -> Mapping[str, str]:
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
