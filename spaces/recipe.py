"""A recipe: everything that determines a candidate, as canonical JSON with a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spaces.cache_settings import LOSSY
from spaces.knob import Value

#: Steps that say how weights are run, and change none of those that are stored.
DEPLOYED = ("bits", "cache")


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal content has equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(data: Any) -> str:
    """The first 16 hex digits of the SHA-256 of the canonical JSON of `data`."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Step:
    """One axis (or the runtime) with its settings."""

    name: str
    settings: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Base model and task, one step for every axis that is on, the recovery training, and the runtime.

    `steps` holds only axes that are on, in phase order, and of them only settings that are not off
    (`spaces.build.steps_of` makes it so): two recipes of the same candidate are equal.
    """

    base: str  # digest of the base model's files: wherever they are, and whatever they are called
    task: str
    teacher: str  # digest of what the teacher was made from (base, data, training)
    steps: tuple[Step, ...]
    recover: Mapping[str, Value]  # empty when nothing is trained
    runtime: Step

    def step(self, name: str) -> Step | None:
        """The step of the axis `name`, or None where it is off."""
        return next((step for step in self.steps if step.name == name), None)

    @property
    def compressed(self) -> bool:
        """Whether its weights differ from the teacher's."""
        return any(step.name not in DEPLOYED for step in self.steps)

    @property
    def exact(self) -> bool:
        """Whether it gives the teacher's own outputs: its weights in full precision, and a cache that loses nothing."""
        return all(step.name == "cache" and step.settings.get("kind") not in LOSSY for step in self.steps)

    @property
    def weights_digest(self) -> str:
        """Digest of what determines the weights: everything but the bits, the cache and the runtime."""
        data = self.to_json()
        data.pop("runtime")
        data["steps"] = [step for step in data["steps"] if step["name"] not in DEPLOYED]
        return digest_of(data)

    @property
    def digest(self) -> str:
        """16 hex digits that identify the candidate."""
        return digest_of(self.to_json())

    @property
    def params(self) -> dict[str, Value]:
        """Settings by `<axis>.<knob>`, as MLflow and Optuna name them (axes that are off are absent)."""
        named = {f"{s.name}.{k}": v for s in self.steps for k, v in s.settings.items()}
        named["runtime.name"] = self.runtime.name
        named.update({f"runtime.{k}": v for k, v in self.runtime.settings.items()})
        return named

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {
            "base": self.base,
            "task": self.task,
            "teacher": self.teacher,
            "steps": [{"name": s.name, "settings": dict(s.settings)} for s in self.steps],
            "recover": dict(self.recover),
            "runtime": {"name": self.runtime.name, "settings": dict(self.runtime.settings)},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote. Raises KeyError where a field is missing."""
        return cls(
            base=data["base"],
            task=data["task"],
            teacher=data["teacher"],
            steps=tuple(Step(s["name"], dict(s["settings"])) for s in data["steps"]),
            recover=dict(data["recover"]),
            runtime=Step(data["runtime"]["name"], dict(data["runtime"]["settings"])),
        )
