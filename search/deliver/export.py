"""The export of a search: the front, its plots, best-config files, and a folder for each model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from search.deliver.best_config import BestConfig, plain_json
from search.deliver.sentence_folder import write_sentence_folder
from search.deliver.written_files import WrittenFiles, mend, replacing_folder, sha256, take_away
from search.errors import UserError
from search.front.front import Front
from search.front.outcome import Outcome
from search.front.study_record import StudyRecord
from search.report.page import front_html
from search.report.plot import front_png
from search.report.text import front_json
from search.store.hard_links import LINKED, link_or_copy
from search.store.paths import located
from spaces import registry
from spaces.base import WEIGHTS
from spaces.build import precision_of
from spaces.errors import Infeasible
from spaces.recipe import Recipe
from spaces.runtimes.seal import seal_path

#: The file that names each pick.
PICK_FILES = {
    "balanced": "best-config.yaml",
    "fastest": "fastest.yaml",
    "most-accurate": "most-accurate.yaml",
}
EXPORTED = ("front.json", "front.html", "front.png", *PICK_FILES.values())
EXPORTS = "exports"  # in a results folder: the folder of exports
MODELS = "models"  # in an export: the folder of model folders
RECIPE = "recipe.yaml"  # in a model folder: the best-config file of that model

#: Suffixes of the files of a model folder: weights, configuration, tokenizer. Never a pickle or a stage's manifest.
TAKEN = (".json", ".safetensors", ".txt", ".model", ".jinja")
LEFT = ("entry.json",)
#: Suffixes of compiled code, which is opened only under the seal of the user who compiled it (`spaces.runtimes.seal`).
PROGRAMS = (".pt2",)


#: The folder from which a measured model is opened: that of its weights, or one with the files that its runtime makes
#: from them. A relative path is in the results folder.
FolderOf = Callable[[Outcome], Path]


def weights_of(outcome: Outcome) -> Path:
    """The folder of an outcome's weights, relative to the results folder."""
    return Path(outcome.folder)


def export(front: Front, study: StudyRecord, folder: Path, opened: FolderOf = weights_of) -> None:
    """Write the front's files and models to `folder`, each of them atomically.

    Models are written before the files that name them; models that left the front are removed last. Files in `folder`
    that this program did not write are kept (`search.deliver.written_files`). `opened` gives the folder that a model is
    copied from.

    Raises:
        UserError: as `export_model`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mend(folder)
    mend(folder / MODELS)
    record = WrittenFiles.read(folder)
    now = [f"{MODELS}/{outcome.number}" for outcome in front.members]
    record.folders = sorted({*record.folders, *now})
    record.save()  # before the models are written: whatever a kill leaves is known
    exported = {o.number: export_model(front, study, o, exported_folder(folder, o), opened) for o in front.members}
    for name, file in PICK_FILES.items():
        if name in front.picks:
            with record.replacing(file) as partial:
                partial.write_text(exported[front.picks[name].number].to_yaml(file), encoding="utf-8")
        else:
            record.remove(file)
    with record.replacing("front.png") as partial:
        front_png(front, study, partial)
    with record.replacing("front.html") as partial:
        partial.write_text(front_html(front, study), encoding="utf-8")
    with record.replacing("front.json") as partial:
        partial.write_text(json.dumps(plain_json(front_json(front, study)), indent=1) + "\n", encoding="utf-8")
    for name in sorted(set(record.folders) - set(now)):
        take_away(folder / name, first=(RECIPE,))  # without its record it is no model any more
    record.folders = now
    record.save()


def exported_folder(folder: Path, outcome: Outcome) -> Path:
    """The folder of the model of `outcome` in the export `folder`."""
    return folder / MODELS / str(outcome.number)


def export_model(
    front: Front, study: StudyRecord, outcome: Outcome, folder: Path, opened: FolderOf = weights_of
) -> BestConfig:
    """Write the model of `outcome` to `folder`, with its record as `recipe.yaml`; returns the record.

    In the folder of exports, weights and graphs are hard links to those of the store. A folder elsewhere has copies.

    Raises:
        UserError: the weights that were measured are no longer in the store, or the runtime cannot make its files here.
    """
    source = located(study.results, outcome.folder)
    if not outcome.folder or not (source / WEIGHTS).is_file():
        raise UserError(
            f"trial {outcome.number}: its weights must be in {source}, and are not; "
            "the same `run` command builds them again"
        )
    _check_weights(source / WEIGHTS, study, outcome)
    try:
        source = study.results / opened(outcome)
    except Infeasible as reason:
        raise UserError(f"trial {outcome.number}: cannot be exported on this machine: {reason}") from None
    programs = programs_of(source, outcome.recipe)
    linked: tuple[str, ...] = LINKED if folder.resolve().is_relative_to((study.results / EXPORTS).resolve()) else ()
    with replacing_folder(folder, made_again=programs) as partial:
        for name in files_of(source, outcome.recipe):
            (partial / name).parent.mkdir(exist_ok=True)
            if name.endswith(linked):
                link_or_copy(source / name, partial / name)
            else:
                shutil.copyfile(source / name, partial / name)
        write_sentence_folder(partial, outcome.recipe, _cut_at(partial, int(study.config["data"]["max_length"])))
        if outcome.number in study.checks:
            shutil.copyfile(study.checks[outcome.number], partial / "reference.npz")
        record = BestConfig.of(front, study, outcome, _digests(partial))
        # After the digests: a program is made again where its seal does not hold, and is no other model then.
        for name in programs:
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, partial / name)
        (partial / RECIPE).write_text(record.to_yaml(RECIPE), encoding="utf-8")
    return record


def _check_weights(path: Path, study: StudyRecord, outcome: Outcome) -> None:
    """Raise UserError unless these weights are those that were measured.

    Somebody may have written into a hard link to them, or another study may have trained the recipe again.
    """
    measured = study.weights_sha256.get(outcome.number) or outcome.weights_sha256
    if measured and (digest := sha256(path)) != measured:
        raise UserError(
            f"trial {outcome.number}: its weights in {path.parent} must be those that were measured, with SHA-256 "
            f"{measured[:16]}..., got {digest[:16]}...; the same `run` command builds them again"
        )


def _cut_at(folder: Path, max_length: int) -> int:
    """Tokens at which rows are cut: `max_length`, or the limit of the folder's tokenizer where that is less."""
    file = folder / "tokenizer_config.json"
    limit = json.loads(file.read_text(encoding="utf-8")).get("model_max_length") if file.is_file() else None
    return min(max_length, int(limit)) if isinstance(limit, int | float) else max_length


def files_of(source: Path, recipe: Recipe) -> list[str]:
    """Names, relative to `source`, of the files that a model of this recipe needs on any machine."""
    top = [p for p in source.iterdir() if p.is_file() and p.suffix in TAKEN and p.name not in LEFT]
    graphs = [source / name for name in _runs(recipe) if not name.endswith(PROGRAMS)]
    names = {str(p.relative_to(source)) for p in [*top, *graphs] if p.is_file() and not p.name.startswith(".")}
    return sorted(names)


def programs_of(source: Path, recipe: Recipe) -> list[str]:
    """Names, relative to `source`, of the compiled code of this recipe, and of its seals; none without a seal."""
    programs = [source / name for name in _runs(recipe) if name.endswith(PROGRAMS)]
    pairs = [(path, seal_path(path)) for path in programs if path.is_file() and seal_path(path).is_file()]
    return [str(path.relative_to(source)) for pair in pairs for path in pair]


def _runs(recipe: Recipe) -> tuple[str, ...]:
    """The files with the weights that the recipe's runtime runs."""
    return registry.runtime_named(recipe.runtime.name).files(precision_of(recipe))


def _digests(folder: Path) -> Mapping[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
