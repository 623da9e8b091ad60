"""The best-config file: all that is needed to rebuild one candidate, and its measurements."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from objectives.measurement import Measurement
from search.errors import UserError
from search.front.front import Front
from search.front.outcome import Outcome
from search.front.study_record import StudyRecord
from search.report.text import rebuild_command, speedups
from spaces.recipe import Recipe

BEST_CONFIG_VERSION = 2


@dataclass(frozen=True)
class BestConfig:
    """One candidate of one study. The `digest` of the recipe in the file reveals edits."""

    study: str
    number: int
    recipe: Recipe
    config: Mapping[str, Any]  # the whole RunConfig, as a mapping
    measurements: Mapping[str, Measurement]  # validation split, timing of the final campaign
    quick: Mapping[str, Measurement]  # the search's own timing, which the campaign replaced; may be empty
    held_out: Mapping[str, Measurement]  # test split; may be empty
    #: of: the time that is compared; over_eager_fp32, over_best_uncompressed: {value, interval} or None
    speedup: Mapping[str, Any]
    conditions: Mapping[str, Any]  # hardware fingerprint and workload
    versions: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)  # SHA-256 by name in the model folder

    @classmethod
    def of(cls, front: Front, study: StudyRecord, outcome: Outcome, files: Mapping[str, str]) -> BestConfig:
        """The record of a complete outcome; `files` are SHA-256 digests by name in its model folder."""
        return cls(
            study=study.name,
            number=outcome.number,
            recipe=outcome.recipe,
            config=study.config,
            measurements=outcome.measurements,
            quick=outcome.quick,
            held_out=study.held_out.get(outcome.number, {}),
            speedup=speedups(front, outcome),
            conditions={"hardware": dict(study.hardware), "workload": dict(study.config["workload"])},
            versions=study.versions,
            files=files,
        )

    def to_json(self, file: str) -> dict[str, Any]:
        """The content by `schemas/best-config.schema.json`; `file` is the file's own name, for `rebuild`."""
        return {
            "schema_version": BEST_CONFIG_VERSION,
            "study": self.study,
            "number": self.number,
            "model": self.config["model"]["name"],
            "revision": self.config["model"]["revision"],
            "task": self.recipe.task,
            "data": dict(self.config["data"]),
            "recipe": self.recipe.to_json(),
            "measurements": _plain(self.measurements),
            "quick": _plain(self.quick),
            "held_out": _plain(self.held_out),
            "speedup": dict(self.speedup),
            "conditions": dict(self.conditions),
            "versions": dict(self.versions),
            "files": dict(self.files),
            "config": dict(self.config),
            "rebuild": rebuild_command(file),
            "digest": self.recipe.digest,  # last: a truncated file has none
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BestConfig:
        """The record in valid content (`read_best_config` checks it)."""
        return cls(
            study=data["study"],
            number=data["number"],
            recipe=Recipe.from_json(data["recipe"]),
            config=data["config"],
            measurements=_measured(data["measurements"]),
            quick=_measured(data["quick"]),
            held_out=_measured(data["held_out"]),
            speedup=data["speedup"],
            conditions=data["conditions"],
            versions=data["versions"],
            files=data["files"],
        )

    def to_yaml(self, file: str) -> str:
        """`to_json` as YAML, after a comment with the command that rebuilds the model."""
        head = f"# Trial {self.number} of study {self.study}. To build it again: {rebuild_command(file)}\n"
        return head + yaml.safe_dump(plain_json(self.to_json(file)), sort_keys=False, allow_unicode=True, width=110)


def read_best_config(path: Path) -> BestConfig:
    """The best-config file at `path`.

    Raises:
        UserError: absent, no YAML, truncated, edited, or written by a newer version of this program.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # (a date of no calendar is a ValueError)
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML, or truncated: {reason[:160]}") from None
    _check(path, data)
    config = BestConfig.from_json(data)
    if (digest := config.recipe.digest) != data["digest"]:
        raise UserError(
            f"{path}: recipe: was edited: its digest must be {data['digest']}, got {digest}; "
            "to try other settings, narrow `space` in a config and run a search"
        )
    return config


def _check(path: Path, data: Any) -> None:
    """Raise UserError where `data` does not match the schema."""
    import jsonschema

    if not isinstance(data, dict):
        raise UserError(f"{path}: must be a best-config file (a mapping of keys), got {type(data).__name__}")
    version = data.get("schema_version")
    if isinstance(version, int) and version > BEST_CONFIG_VERSION:
        raise UserError(
            f"{path}: schema_version: must be at most {BEST_CONFIG_VERSION} for this program, got {version}"
        )
    if isinstance(version, int) and version < BEST_CONFIG_VERSION:
        raise UserError(
            f"{path}: schema_version: must be {BEST_CONFIG_VERSION} for this program, got {version}; "
            "export the study again"
        )
    error = jsonschema.exceptions.best_match(_validator("best-config").iter_errors(data))
    if error is not None:
        key = ".".join(str(part) for part in error.absolute_path)
        raise UserError(f"{path}: {f'{key}: ' if key else ''}truncated or edited: {error.message[:160]}")
    for key, value in _numbers(data):
        if not math.isfinite(value):
            raise UserError(f"{path}: {key}: must be a finite number, got {value}")


def _numbers(data: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Each number with a fraction and its dotted key."""
    if isinstance(data, float):
        yield key, data
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in pairs:
        yield from _numbers(value, f"{key}.{name}" if key else str(name))


def schema(name: str) -> dict[str, Any]:
    """The published JSON schema called `name`: front or best-config."""
    content = (resources.files("search") / "schemas" / f"{name}.schema.json").read_text("utf-8")
    parsed: dict[str, Any] = json.loads(content)
    return parsed


def _validator(name: str) -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(schema(name))


def plain_json(data: Any) -> Any:
    """`data` after a round trip through JSON: tuples become lists, numpy scalars numbers.

    Raises:
        ValueError: an infinite number or NaN, which are never recorded.
    """
    return json.loads(json.dumps(data, allow_nan=False, default=lambda value: value.item()))


def _plain(measurements: Mapping[str, Measurement]) -> dict[str, Any]:
    return {name: m.to_json() for name, m in measurements.items()}


def _measured(data: Mapping[str, Any]) -> dict[str, Measurement]:
    return {name: Measurement.from_json(m) for name, m in data.items()}
