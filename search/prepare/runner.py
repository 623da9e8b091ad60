"""Preparation of a search: runs the stages of a configuration, or finds them in the store."""

from __future__ import annotations

import atexit
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from objectives import kv_cache, roofline
from objectives.process import Progress, RemoteTimeout
from search.config.model_folder import model_fingerprint, model_folder
from search.config.schema import RunConfig
from search.errors import UserError
from search.failures import retry_once
from search.prepare import isolate
from search.prepare.data import prepare_data
from search.prepare.machine import context_of, devices_beside, environment_of
from search.prepare.matmul_costs import costs_here
from search.prepare.model import describe_model
from search.prepare.model_facts import ModelFacts, check_fit
from search.prepare.prepared import Prepared, PreparedData, cores
from search.prepare.recovery_budget import check_terms, has_term, likeliest_of
from search.prepare.statistics import make_statistics
from search.prepare.teacher import make_teacher
from search.prepare.teacher_outputs import make_outputs
from search.space.choices import check_choices
from search.space.space import Space, open_space
from search.store.store import Store
from spaces.code_digest import package_digest
from spaces.recipe import digest_of
from spaces.runtime import Context
from spaces.shape import LayerShape, Shape

log = logging.getLogger(__name__)

#: The packages whose code decides what the prepared data of given files are.
DATA_READERS = ("search.tasks", "search.prepare")


def store_of(config: RunConfig) -> Store:
    """The store of this configuration; entries that this process uses are not removed until it ends."""
    store = Store(Path(config.mlruns) / "cache", config.cache.bytes)
    atexit.register(store.release)
    return store


@dataclass(frozen=True)
class Stages:
    """The folders of stages, from the store or made in a process of their own."""

    store: Store
    progress: Progress
    deadline: float | None = None  # monotonic seconds

    def __call__(self, name: str, key: dict[str, Any], function: Any, *arguments: Any) -> Path:
        def fill(folder: Path) -> None:
            for path in folder.iterdir():  # what an earlier try left
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            left = None if self.deadline is None else max(1.0, self.deadline - time.monotonic())
            isolate.run(function, folder, *arguments, timeout_s=left, progress=self.progress)

        def make(folder: Path) -> None:
            try:
                retry_once(partial(fill, folder), f"stage {name}")
            except RemoteTimeout as error:
                raise TimeoutError(
                    f"the time limit ended in the stage {name!r}, before the first trial; the same command starts "
                    "there again, with what is done kept"
                ) from error

        began = time.monotonic()
        folder, built = self.store.make(name, key, make)
        log.info("stage %s: %.1f s%s", name, time.monotonic() - began, "" if built else ", from the store")
        return folder


@dataclass(frozen=True)
class SearchedModel:
    """What a search knows before it reads data: the base model as it is described, and the space."""

    folder: Path  # that `describe_model` filled
    facts: ModelFacts
    notes: tuple[str, ...]  # about truncation
    space: Space


def searched_model(config: RunConfig, context: Context, describe: Callable[[], Path]) -> SearchedModel:
    """The first step of `run`, and of `plan`.

    Args:
        describe: gives the folder that `describe_model` filled for this configuration.

    Raises:
        UserError: model and configuration do not fit each other, a knob is out of range, no deployment can run here, an
            objective cannot be measured of this model, or a recovery would have no loss.
    """
    check_choices(config)
    folder = describe()
    facts = ModelFacts.read(folder)
    notes = check_fit(config, facts)
    space = _space_of(config, folder, context)
    if space.compresses:
        check_terms(config)
    return SearchedModel(folder, facts, notes, space)


def prepare(
    config: RunConfig,
    progress: Progress,
    deadline: float | None = None,
    agree: Callable[[Mapping[str, Any], Mapping[str, Any]], None] = lambda parts, environment: None,
    approve: Callable[[Prepared], None] = lambda prepared: None,
    say: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Everything before the first trial: data, space, teacher, statistics, teacher outputs, costs of products.

    Args:
        progress: called with the stage and the share that is done, 0 to 1.
        deadline: monotonic seconds.
        agree: called with what all trials of the study share, and the machine's fingerprint, before anything is
            trained; it may raise.
        approve: called once there is a teacher, before anything is derived from it; statistics and outputs are still
            missing. It may raise.
        say: called with each note about data and space, before anything is trained.

    Raises:
        UserError: a problem of model, data or configuration that shows only when they are read.
        TimeoutError: `deadline` (monotonic seconds) passed.
    """
    context = context_of(config)
    device, threads = context.device, cores()
    stage = Stages(store_of(config), progress, deadline)
    stage.store.sweep()
    key = _data_key(config)
    model = key["model"]
    base = searched_model(config, context, partial(_model_stage, config, model, stage))
    space = base.space
    data = stage("data", key, prepare_data, config, base.folder)
    about = json.loads((data / "data.json").read_text(encoding="utf-8"))
    teacher_key = config.teacher_parts(model, about["digest"])
    digest = digest_of(teacher_key)
    parts = {**config.study_parts(model, about["digest"]), "searched": space.to_json(), "teacher": digest}
    environment = environment_of(device, devices_beside(config, device))
    agree(parts, environment)
    for note in (*about["notes"], *space.notes):
        say(f"note: {note}")
    for name, why in space.missing.items():
        say(f"{name} is left out: {why}")
    scratch = stage.store.scratch("teacher", teacher_key)
    teacher = stage("teacher", teacher_key, make_teacher, config, data, device, threads, scratch)
    taught = Prepared(config, context, data, stage.store, space, teacher, digest, Path(), None, environment, parts)
    approve(taught)
    inputs = {"teacher": digest, "seed": config.seed}
    statistics = stage("statistics", {**inputs, "shape": 2}, make_statistics, config, data, teacher, device, threads)
    outputs = _outputs(config, space, inputs, data, teacher, device, stage)
    costs = costs_here(config, space, context, data, environment, stage)
    return replace(taught, statistics=statistics, outputs=outputs, costs=costs)


def _check_known_layers(config: RunConfig, space: Space) -> None:
    """Raise UserError for an objective or a limit counted from layers, of a model whose layers are not known."""
    if space.shape is not None:
        return
    counted = {objective.name: "the roofline is" for objective in roofline.OBJECTIVES}
    counted |= dict.fromkeys(kv_cache.CACHE_NAMES, "bytes of a cache are")
    for key, name in config.named_objectives():
        if name in counted:
            raise UserError(
                f"{config.where(key)}: must be measurable of this model, got {name}: {counted[name]} counted from the "
                "sizes of its layers, which are not known"
            )


def _outputs(
    config: RunConfig, space: Space, inputs: Mapping[str, Any], data: Path, teacher: Path, device: str, stage: Stages
) -> Path | None:
    """The folder of the teacher's outputs; None where nothing is recovered."""
    recover = config.recover
    if recover.epochs == 0 or not space.compresses:
        return None
    wanted = {
        **inputs,
        "rows": recover.rows,
        "hidden": has_term(config, "hidden"),
        "held_out": recover.early_stopping is not None,
        "tokens": recover.tokens,
        "top_k": likeliest_of(config),
    }
    if recover.epochs < 1 or recover.tokens is not None:
        wanted |= {"epochs": recover.epochs, "batch": recover.batch}
    return stage("outputs", wanted, make_outputs, config, data, teacher, device, cores())


def data_stages(config: RunConfig, stage: Stages) -> Path:
    """The folder of the tokenised data.

    Raises:
        UserError: the model or the data cannot be used, or do not fit each other; sizes are checked first.
    """
    key = _data_key(config)
    described = _model_stage(config, key["model"], stage)
    check_fit(config, ModelFacts.read(described))
    return stage("data", key, prepare_data, config, described)


def _model_stage(config: RunConfig, model: str, stage: Stages) -> Path:
    """The folder with the facts and sizes of the base model; `model` is its digest."""
    return stage("model", {"model": model, "task": config.task, "shape": 3}, describe_model, config)


def _data_key(config: RunConfig) -> dict[str, Any]:
    model = model_fingerprint(model_folder(config.model, config.where))
    return {
        "data": data_key_of(config),
        "model": model,
        "head": config.model.head,
        "task": config.task,
        "problem_type": config.model.problem_type,
        "trained_on": config.teacher.epochs > 0,  # what is refused, and how labels are numbered, depends on it
    }


@contextmanager
def reading_data(config: RunConfig, context: Context) -> Iterator[PreparedData]:
    """The prepared data of a configuration without a search, for `check`.

    They are read from the results folder, or else prepared in a temporary folder.
    """
    store = store_of(config)
    folder = store.find("data", _data_key(config))
    if folder is not None:
        yield PreparedData(config, context, folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        stage = Stages(Store(Path(scratch)), lambda stage, done: None)
        yield PreparedData(config, context, data_stages(config, stage))


def stored_teacher(rows: PreparedData, digest: str) -> Path | None:
    """The folder of the teacher of this `digest` in the store of the results folder; None where it is not there."""
    config = rows.config
    try:
        model = model_fingerprint(model_folder(config.model, config.where))
    except UserError:
        return None
    key = config.teacher_parts(model, rows.about_data["digest"])
    return store_of(config).find("teacher", key) if digest_of(key) == digest else None


def _space_of(config: RunConfig, described: Path, context: Context) -> Space:
    """The search space for the model described in the folder `described`.

    Raises:
        UserError: a knob is out of range, no deployment can run here, or an objective cannot be measured of this model.
    """
    unknown = described / "unknown.txt"
    if unknown.exists():
        space = open_space(config, None, context, unknown.read_text(encoding="utf-8"))
    else:
        fields = json.loads((described / "shape.json").read_text())
        shape = Shape(**{**fields, "layers": tuple(LayerShape(**n) for n in fields["layers"])})
        space = open_space(config, shape, context)
    _check_known_layers(config, space)
    return space


def data_key_of(config: RunConfig) -> dict[str, Any]:
    """What determines the prepared data: the data section with digests of files, or the names of a hub data set.

    And the code: a version whose rules for rows differ must not take what an earlier one has read.
    """
    data: dict[str, Any] = config.to_mapping()["data"]
    if config.data.name is None:
        data |= {part: _content(Path(path)) for part, path in config.data.splits.items()}
    data |= {key: _content(Path(path)) for key, path in config.data.beside.items()}
    return {**data, "code": package_digest(*DATA_READERS)}


def _content(path: Path) -> str:
    """The digest of a file and its suffix, which determines its format; for a folder, of the files in it."""
    import hashlib

    if path.is_dir():
        inside = {str(one.relative_to(path)): _content(one) for one in sorted(path.rglob("*")) if one.is_file()}
        return digest_of(inside)
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}{path.suffix.lower()}"
