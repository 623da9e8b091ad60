"""RunConfig: everything one search is told, parsed once from YAML and `--set`, checked, and frozen.

Nothing heavy is imported here: the command line reads it before anything else.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from search.config.fields import Name, Rule, parse
from search.config.model_folder import model_name
from search.config.sections import (
    BudgetConfig,
    CacheConfig,
    DataConfig,
    EconomyConfig,
    LimitsConfig,
    MeasureConfig,
    ModelConfig,
    RecoverConfig,
    TeacherConfig,
    WorkloadConfig,
)
from search.config.source import Override, Source, portable, read
from search.config.space_section import Spec, check_space, narrow, narrow_axis
from search.errors import UserError, listed, unknown, wrong

__all__ = [
    "Names",
    "Override",
    "RunConfig",
    "Source",
    "UserError",
    "from_mapping",
    "load",
    "narrow",
    "narrow_axis",
    "results_folder",
]


#: The samplers, the default first; `search.propose.samplers` makes them.
SAMPLERS = ("known-latency", "tpe", "nsga2", "gp", "random")


@dataclass(frozen=True)
class Names:
    """What can be named in a configuration; the composition root fills it from the registries."""

    axes: Mapping[str, tuple[str, ...]]  # axis (the runtime too) -> its knobs
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]  # the first is the default
    samplers: tuple[str, ...]  # the first is the default
    objectives: tuple[str, ...]


def study_name(text: str) -> str:
    """`text` as the name of a study, which is also the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip(".-")[:200].rstrip(".-") or "study"


STUDY = Rule("made of letters, digits, '.', '_' and '-' (at most 200)", lambda v: study_name(v) == v)
SEED = Rule("between 0 and 2**32 - 1", lambda v: 0 <= v < 2**32)


@dataclass(frozen=True)
class RunConfig:
    """One search. Paths are absolute, names exist, ranges of knobs are still to meet the model (`narrow`)."""

    model: ModelConfig
    task: Name
    data: DataConfig
    study: Annotated[str, STUDY] = "study"
    seed: Annotated[int, SEED] = 0
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    space: Mapping[str, Mapping[str, Spec] | None] = field(default_factory=dict)  # None: the axis is off
    objectives: tuple[Name, ...] = ("metric", "latency_p50_ms")  # "metric" stands for the task's metric
    metric: Name = ""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    sampler: Name = ""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    economy: EconomyConfig = field(default_factory=EconomyConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    mlruns: Name = "mlruns"
    source: Source = field(default_factory=Source, repr=False, compare=False, metadata={"from_file": False})

    def where(self, key: str) -> str:
        """Where `key` was written: the beginning of a message about it."""
        return self.source.where(key)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types; `from_mapping` gives the same configuration back.

        Paths are absolute, but for the embedded data, which every installation has.
        """
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "source"}
        made = {
            name: asdict(value) if hasattr(value, "__dataclass_fields__") else value for name, value in named.items()
        }
        made["space"] = {axis: "off" if knobs is None else dict(knobs) for axis, knobs in self.space.items()}
        made["data"] |= {split: portable(path) for split, path in self.data.splits.items()}
        plain: dict[str, Any] = json.loads(json.dumps(made))
        return plain

    def to_json(self) -> str:
        return json.dumps(self.to_mapping(), indent=2, ensure_ascii=False)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_mapping(), sort_keys=False, allow_unicode=True)

    def teacher_parts(self, model: str, train: str) -> dict[str, Any]:
        """What determines the teacher's weights, given the digests of model folder and training split."""
        return {
            "model": model,
            "head": self.model.head,
            "task": self.task,
            "train": train,
            "max_length": self.data.max_length,
            "teacher": _as_before("teacher", asdict(self.teacher)),
            "seed": self.seed,
        }

    def study_parts(self, model: str, data: str) -> dict[str, Any]:
        """What all trials of one study share, given the digests of model folder and data.

        A study that was made with other parts cannot be resumed; budget, sampler and timing may change.
        """
        mapping = self.to_mapping()
        same = (
            "task",
            "seed",
            "teacher",
            "recover",
            "space",
            "objectives",
            "metric",
            "limits",
            "device",
            "workload",
        )
        return {
            "format": FORMAT,
            "model": {"digest": model, "head": self.model.head},
            "data": {"digest": data, "max_length": self.data.max_length},
            **{name: _as_before(name, mapping[name]) for name in same},
            "validation_rows": self.measure.validation_rows,
            # What a rung saw means something else after another share of the recovery.
            **({} if self.economy.rungs == EconomyConfig().rungs else {"rungs": list(self.economy.rungs)}),
        }


#: Of what a study holds. Raised when recipes are written in another way, so that known ones would not be known again.
FORMAT = 2

#: Keys that came later, by section: where they say nothing, digests and studies are what they were before.
LATER = {
    "teacher": ("early_stopping",),
    "recover": ("block_weight", "relation_weight", "early_stopping"),
    "limits": ("others",),
    "workload": ("threads",),
}


def _as_before(section: str, values: Any) -> Any:
    """The values of a section without later keys that are off."""
    late = LATER.get(section, ())
    return {k: v for k, v in values.items() if k not in late or v} if late else values


def load(path: Path | None, overrides: Sequence[str | Override], names: Names) -> RunConfig:
    """The configuration in `path` (None: the embedded default) with `overrides` ("a.b=value") on top.

    Relative paths of the file are relative to the file, those of an override to the current folder; `mlruns`
    is always relative to the current folder.

    Raises:
        UserError: anything the user must mend.
    """
    raw, source = read(path, [o if isinstance(o, Override) else Override.parse(o) for o in overrides])
    if path is not None:
        raw.setdefault("study", study_name(path.stem))
    return from_mapping(raw, names, source)


def from_mapping(raw: Mapping[str, Any], names: Names, source: Source | None = None) -> RunConfig:
    """The checked configuration of a mapping that is already read."""
    source = source or Source()
    raw = dict(raw)
    if isinstance(raw.get("data"), Mapping) and raw["data"].get("name") is not None:
        raw["data"] = {"train": "train", **raw["data"]}
    raw.setdefault("metric", names.metrics[0])
    raw.setdefault("sampler", names.samplers[0])
    space = check_space(raw.pop("space", None), names.axes, source.where)
    config = parse(RunConfig, raw, source.where)
    _check_names(config, names, source)
    return replace(
        config,
        model=replace(config.model, name=model_name(config.model.name, source)),
        data=_located(config.data, source),
        space=space,
        objectives=tuple("metric" if o == config.metric else o for o in config.objectives),
        mlruns=str(results_path(Path(config.mlruns).expanduser(), source.where("mlruns"))),
        source=source,
    )


def results_path(path: Path, where: str) -> Path:
    """`path`, absolute.

    Raises:
        UserError: it holds a character that means something else in the addresses of databases in it.
    """
    made = path.absolute()
    if set("?%") & set(str(made)):
        raise wrong(
            where, "a folder whose path has no ? and no % (in a database's address they mean something else)", made
        )
    return made


@contextmanager
def results_folder(config: RunConfig) -> Iterator[Path]:
    """`config.mlruns`, made if it is not there, and not left behind empty by a UserError.

    Raises:
        UserError: nothing can be written in it.
    """
    folder = Path(config.mlruns)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
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
        if made:
            inside = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
            for path in (*inside, *made):
                with suppress(OSError):  # it has something in it
                    path.rmdir()
        raise


def _check_names(config: RunConfig, names: Names, source: Source) -> None:
    for key, name, valid in (
        ("task", config.task, names.tasks),
        ("metric", config.metric, names.metrics),
        ("sampler", config.sampler, names.samplers),
    ):
        if name not in valid:
            raise unknown(source.where(key), key, name, valid)
    objectives = ["metric" if o == config.metric else o for o in config.objectives]
    for name in objectives:
        _check_objective(name, ("metric", *names.objectives), source.where("objectives"))
    for name, bound in config.limits.others.items():
        where = source.where(f"limits.others.{name}")
        _check_objective(name, names.objectives, where)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise wrong(where, "a number", bound)
    if len(set(objectives)) < max(2, len(objectives)):
        raise wrong(source.where("objectives"), "at least two different ones", list(config.objectives))


def _check_objective(name: str, valid: Sequence[str], where: str) -> None:
    """Raise UserError for a name that is none of `valid`, or of a workload that cannot be."""
    plain, mark = name.partition("/")[::2]  # "latency_p50_ms/b32": under another workload
    if plain not in valid:
        raise unknown(where, "objective", name, valid)
    if mark or name != plain:
        from objectives import objective_named

        try:
            objective_named(name)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None


def _located(data: DataConfig, source: Source) -> DataConfig:
    """With absolute paths, when the data are files. Raises UserError when one is missing."""
    for split, value in data.splits.items():
        if split != "train" and value == data.train:
            raise wrong(source.where(f"data.{split}"), "other rows than data.train (or left out: cut from it)", value)
    if data.name is not None:
        if source.resolve("data.name", data.name).is_file():
            raise wrong(source.where("data.name"), "a hub name; a file goes to data.train", data.name)
        for key in ("encoding", "delimiter"):
            if getattr(data, key) is not None:
                raise wrong(source.where(f"data.{key}"), "left out of hub data", getattr(data, key))
        return data
    if data.config is not None:
        raise wrong(source.where("data.config"), "left out unless data.name is a hub name", data.config)
    files = {split: _file(f"data.{split}", path, source) for split, path in data.splits.items()}
    for key, formats in (("encoding", TEXTS), ("delimiter", DELIMITED)):
        if getattr(data, key) is not None and not any(path.lower().endswith(formats) for path in files.values()):
            rule = f"left out where no file ends in {' or '.join(formats)}"
            raise wrong(source.where(f"data.{key}"), rule, getattr(data, key))
    return replace(data, train=files["train"], validation=files.get("validation"), test=files.get("test"))


DELIMITED = (".csv", ".tsv")
TEXTS = (*DELIMITED, ".json", ".jsonl")
FORMATS = (*TEXTS, ".parquet")


def _file(key: str, path: str, source: Source) -> str:
    file = source.resolve(key, path)
    where = source.where(key)
    if not file.exists():
        raise UserError(f"{where}: no such file: {file}{_beside(file)}")
    if not file.is_file() or file.suffix.lower() not in FORMATS:
        raise wrong(where, f"a file ending in {' or '.join(FORMATS)}", path)
    return str(file)


def _beside(file: Path) -> str:
    """A hint: the data files that are in its folder, if any."""
    found = sorted(p.name for p in file.parent.glob("*") if p.suffix in FORMATS) if file.parent.is_dir() else []
    return f" (in that folder: {listed(found, 8)})" if found else ""
