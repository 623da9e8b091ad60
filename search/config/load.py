"""Configurations are read, checked against registered names and existing files, and frozen."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as section

from search.config.data_files import located_beside, located_data
from search.config.generation_workload import call_named, checked_workload
from search.config.model_folder import described, model_name
from search.config.parse import SECTION, Section, parse
from search.config.schema import DataConfig, ProblemType, RunConfig, study_name
from search.config.source import Override, Source, read
from search.config.space_section import check_space
from search.errors import UserError, listed, nearest, unknown, wrong
from search.store.paths import expanded


@dataclass(frozen=True)
class Names:
    """The valid names of a configuration; the composition root fills it from the registries."""

    axes: Mapping[str, tuple[str, ...]]  # axis (the runtime too) -> its knobs
    tasks: tuple[str, ...]
    metrics: Mapping[str, tuple[str, ...]]  # of each task, and each problem type; the first is the default
    samplers: tuple[str, ...]  # the first is the default
    objectives: tuple[str, ...]
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of tasks that have several problem types
    data: Mapping[str, type[DataConfig]] = field(default_factory=dict)  # of each task: the keys of its data
    #: By a key of data, where it is given: the metrics of each task that has it.
    metrics_by_key: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    generating: tuple[str, ...] = ()  # tasks whose timed call generates tokens
    likeliest: tuple[str, ...] = ()  # tasks whose recovery has a term over the teacher's likeliest tokens
    windowed: tuple[str, ...] = ()  # tasks that read long texts in windows which overlap by data.doc_stride


def load_config(path: Path | None, overrides: Sequence[str | Override], names: Names) -> RunConfig:
    """The configuration in `path` (None: the embedded default) with `overrides` ("a.b=value") on top.

    Relative paths of the file are relative to the file, those of an override to the current folder; `mlruns`
    is always relative to the current folder.

    Raises:
        UserError: the configuration or what it names is invalid; the message says where and how to correct it.
    """
    raw, source = read(path, [o if isinstance(o, Override) else Override.parse(o) for o in overrides])
    if path is not None:
        raw.setdefault("study", study_name(path.stem))
    return from_mapping(raw, names, source)


def from_mapping(raw: Mapping[str, Any], names: Names, source: Source | None = None) -> RunConfig:
    """The checked configuration of a parsed mapping. Raises UserError as `load_config`."""
    source = source or Source()
    raw = dict(raw)
    if isinstance(raw.get("data"), Mapping) and raw["data"].get("name") is not None:
        raw["data"] = {"train": "train", **raw["data"]}
    raw.setdefault("sampler", names.samplers[0])
    space = check_space(raw.pop("space", None), names.axes, source.where)
    task = str(raw.get("task"))
    if isinstance(raw.get("data"), Mapping):
        raw["data"] = _own_keys(raw["data"], task, names, source)
    kind = names.data.get(task, DataConfig)
    parsed = parse(_kind(kind), raw, source.where)  # type: ignore[arg-type] # (classes can be hashed)
    config = RunConfig(**{key.name: getattr(parsed, key.name) for key in fields(RunConfig)})
    config = replace(config, model=replace(config.model, problem_type=_problem_type(config, names, source)))
    config = replace(config, objectives=call_named(config, names.generating))
    if config.task in names.windowed and "doc_stride" not in raw["data"]:
        config = replace(config, data=_with_stride(config.data))
    if not config.metric and (metrics := _metrics(config, names)):
        config = replace(config, metric=metrics[0])
    _check_names(config, names, source)
    return replace(
        config,
        workload=checked_workload(config, names.generating, source),
        model=replace(config.model, name=model_name(config.model.name, source, config.model.gguf_file)),
        data=located_beside(located_data(config.data, source), source),
        space=space,
        objectives=tuple("metric" if o == config.metric else o for o in config.objectives),
        mlruns=str(results_path(expanded(config.mlruns), source.where("mlruns"))),
        source=source,
    )


@cache
def _kind(data: Any) -> TypeAdapter[Any]:
    """The type of a RunConfig whose section `data` is of this class of DataConfig, to parse one."""
    parts = {"__annotations__": {"data": Section[data]}, "__module__": RunConfig.__module__}  # type: ignore[misc]
    return TypeAdapter(section(type("RunConfig", (RunConfig,), parts), frozen=True, config=SECTION))


def _own_keys(data: Mapping[str, Any], task: str, names: Names, source: Source) -> dict[str, Any]:
    """`data`; of an unknown task without the keys of any task, so that the error is about the task.

    Raises:
        UserError: a key belongs to other tasks.
    """
    own = {key.name for key in fields(names.data.get(task, DataConfig))}
    section = dict(data)
    for name in data.keys() - own:
        having = [other for other, kind in names.data.items() if name in {key.name for key in fields(kind)}]
        if not having:
            continue  # `parse` says so
        if task in names.data:
            raise wrong(source.where(f"data.{name}"), f"left out unless the task is {listed(having)}", data[name])
        del section[name]
    return section


def _problem_type(config: RunConfig, names: Names, source: Source) -> ProblemType | None:
    """The problem type by, in this order: model.problem_type, several columns of labels, the metric, the model's head.

    Otherwise the task's first; None for a task without problem types.
    """
    problem_type, problems = config.model.problem_type, names.problems.get(config.task, ())
    if problem_type is not None and config.task in names.tasks and problem_type not in problems:
        having = listed(names.problems)
        raise wrong(source.where("model.problem_type"), f"left out unless the task is {having}", problem_type)
    config.data.check(source.where, problem_type)
    if problem_type is not None or not problems:
        return problem_type
    if config.data.problem_type is not None:
        return cast(ProblemType, config.data.problem_type)
    own = described(config.model.name, source) if config.model.head == "auto" else {}
    heads = any(str(name).endswith("ForSequenceClassification") for name in own.get("architectures") or ())
    of_metric = [problem for problem in problems if config.metric in names.metrics[problem]]
    wanted = of_metric[0] if len(of_metric) == 1 else own.get("problem_type") if heads else None
    return cast(ProblemType, wanted if wanted in problems else problems[0])


def _with_stride(data: DataConfig) -> DataConfig:
    """`data` with a `doc_stride` of a quarter of `max_length` where the default overlap would fill a whole window."""
    return data if data.doc_stride < data.max_length else replace(data, doc_stride=data.max_length // 4)


def _metrics(config: RunConfig, names: Names) -> Sequence[str]:
    for key, metrics in names.metrics_by_key.items():
        if config.task in metrics and getattr(config.data, key) is not None:
            return metrics[config.task]
    return names.metrics.get(config.model.problem_type or config.task, ())


def results_path(path: Path, where: str) -> Path:
    """`path`, absolute.

    Raises:
        UserError: it contains a character that is special in the URL of a database.
    """
    absolute = path.absolute()
    if set("?%") & set(str(absolute)):
        raise wrong(
            where, "a folder whose path has no ? and no % (in a database's address they mean something else)", absolute
        )
    return absolute


@contextmanager
def results_folder(config: RunConfig) -> Iterator[Path]:
    """`config.mlruns`, created if absent, and removed again if a UserError leaves it empty.

    Raises:
        UserError: it is not writable.
    """
    folder = Path(config.mlruns)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # can it be written?
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{config.where('mlruns')}: must be a folder that can be written, got {folder} ({reason})"
        ) from None
    try:
        yield folder
    except UserError:
        if missing:
            inside = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
            for path in (*inside, *missing):
                with suppress(OSError):  # it has something in it
                    path.rmdir()
        raise


def _check_variant(config: RunConfig, names: Names, source: Source) -> None:
    """Raise UserError for a metric of a variant of the task that the keys of data do not choose."""
    for key, metrics in names.metrics_by_key.items():
        if config.task not in metrics:
            continue
        value, own = getattr(config.data, key), names.metrics.get(config.task, ())
        valid, other = (own, metrics[config.task]) if value is None else (metrics[config.task], own)
        if config.metric in set(other) - set(valid):
            which = "left out" if value is None else "given"
            raise wrong(source.where("metric"), f"{' or '.join(valid)} where data.{key} is {which}", config.metric)


def _check_metric(config: RunConfig, names: Names, source: Source) -> None:
    """Raise UserError for a metric that the task does not have; whose it is, or that no other one is loaded by name."""
    valid = _metrics(config, names)
    if config.metric in valid:
        return
    error = unknown(source.where("metric"), "metric", config.metric, valid)
    kinds = [kind for kind in names.metrics if kind not in names.problems]  # of a task with problem types, these
    having = [kind for kind in kinds if config.metric in names.metrics[kind]]
    if having:
        raise UserError(f"{error}; it is a metric of {listed(having)}")
    if nearest(config.metric, valid):
        raise error
    raise UserError(f"{error}; none of a library is loaded by its name: CONTRIBUTING.md says how to add one")


def _check_names(config: RunConfig, names: Names, source: Source) -> None:
    _check_variant(config, names, source)
    if config.task not in names.tasks:
        raise unknown(source.where("task"), "task", config.task, names.tasks)
    _check_metric(config, names, source)
    if config.sampler not in names.samplers:
        raise unknown(source.where("sampler"), "sampler", config.sampler, names.samplers)
    if config.recover.top_k is not None and config.task not in names.likeliest:
        having = listed(names.likeliest) or "one whose recovery has likeliest tokens"
        raise wrong(source.where("recover.top_k"), f"left out unless the task is {having}", config.recover.top_k)
    objectives = ["metric" if o == config.metric else o for o in config.objectives]
    for name in objectives:
        _check_objective(name, ("metric", *names.objectives), source.where("objectives"))
        _check_measured(name, config, names, source.where("objectives"))
    _check_least_accuracy(config, source)
    for name in config.limits.others:
        _check_objective(name, names.objectives, source.where(f"limits.others.{name}"))
        _check_measured(name, config, names, source.where(f"limits.others.{name}"))
    if len(set(objectives)) < max(2, len(objectives)):
        raise wrong(source.where("objectives"), "at least two different ones", list(config.objectives))


def _check_measured(name: str, config: RunConfig, names: Names, where: str) -> None:
    """Raise UserError for a metric that no trial of this search measures."""
    both = getattr(config.data, "choices", None) is not None  # a second score is measured beside the metric
    measured = dict.fromkeys((config.metric, *(_metrics(config, names) if both else ())))
    kinds = (names.metrics, *names.metrics_by_key.values())
    if name not in measured and any(name in metrics for kind in kinds for metrics in kind.values()):
        raise wrong(where, f"measured here: of the metrics that is {listed(measured)}", name)


def _check_least_accuracy(config: RunConfig, source: Source) -> None:
    """Raise UserError for limits.min_accuracy with a metric that is better lower."""
    from objectives import objective_named

    minimum = config.limits.min_accuracy
    if minimum is not None and objective_named(config.metric).better == "lower":
        rule = f"left out where lower is better; write limits.others.{config.metric}, its most"
        raise wrong(source.where("limits.min_accuracy"), rule, minimum)


def _check_objective(name: str, valid: Sequence[str], where: str) -> None:
    """Raise UserError for a name that is not one of `valid`, or that has an impossible workload."""
    plain, mark = name.partition("/")[::2]  # "latency_p50_ms/b32": under another workload
    if plain not in valid:
        raise unknown(where, "objective", name, valid)
    if mark or name != plain:
        from objectives import objective_named

        try:
            objective_named(name)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
