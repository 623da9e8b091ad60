"""The outcome of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from objectives.measurement import Direction, Measurement
from objectives.workload import marked
from spaces.recipe import Recipe

LATENCY = "latency_p50_ms"
#: Names of the median time of a call: every model has the first, one that generates the second too.
CALL_TIMES = (LATENCY, "generate_ms")
#: Names of the median times that are predicted before a model is built: of a call, and of a generation's parts.
PREDICTED_TIMES = (*CALL_TIMES, "ttft_ms", "tpot_ms")
SPEEDUP = "speedup"
LOSS = "quality_loss"

Status = Literal["complete", "infeasible", "rejected", "failed"]


def noise_in(measurements: Mapping[str, Measurement]) -> str:
    """Why the times of calls are noisy, under any workload; "" where none is."""
    timed = [figure for name, figure in measurements.items() if marked(name)[0] == LATENCY]
    reasons = [str(figure.conditions.get("noisy", "")) for figure in timed]
    return "; ".join(dict.fromkeys(filter(None, reasons)))


@dataclass(frozen=True)
class Outcome:
    """The outcome of one recipe.

    `status`: "complete" was measured, "infeasible" cannot be built or run on this device, "rejected" breaks a limit
    that is checked before training, "failed" crashed or ran out of memory or time.
    """

    number: int  # the trial's number in the study; -1 until the study has the outcome
    recipe: Recipe
    status: Status
    reason: str = ""
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage ("weights", "export", "latency"); disjoint
    folder: str = ""  # where its weights are stored, relative to the results folder
    baseline: bool = False  # the uncompressed model
    limits_broken: tuple[str, ...] = ()  # sentences, when a limit is broken
    weights_sha256: str = ""  # of the weights that were measured
    #: The loop's measurements that the final campaign replaced.
    quick: Mapping[str, Measurement] = field(default_factory=dict)

    def value(self, objective: str) -> float:
        """The measured value of an objective. Raises KeyError where it was not measured."""
        return self.measurements[objective].value

    @property
    def noise(self) -> str:
        """Why its times are noisy, or "" (`noise_in`)."""
        return noise_in(self.measurements)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {
            "number": self.number,
            "recipe": self.recipe.to_json(),
            "digest": self.recipe.digest,
            "status": self.status,
            "reason": self.reason,
            "measurements": {name: m.to_json() for name, m in self.measurements.items()},
            "seconds": dict(self.seconds),
            "folder": self.folder,
            "baseline": self.baseline,
            "limits_broken": list(self.limits_broken),
            "weights_sha256": self.weights_sha256,
            "quick": {name: m.to_json() for name, m in self.quick.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` wrote. Raises KeyError where a field is missing."""
        return cls(
            number=data["number"],
            recipe=Recipe.from_json(data["recipe"]),
            status=data["status"],
            reason=data["reason"],
            measurements={name: Measurement.from_json(m) for name, m in data["measurements"].items()},
            seconds=dict(data["seconds"]),
            folder=data["folder"],
            baseline=data["baseline"],
            limits_broken=tuple(data["limits_broken"]),
            weights_sha256=data["weights_sha256"],
            quick={name: Measurement.from_json(m) for name, m in data["quick"].items()},
        )

    def numbered(self, number: int) -> Outcome:
        """The outcome as that of trial `number`."""
        return replace(self, number=number)


@dataclass(frozen=True)
class Target:
    """One objective of the search: a measurement's name and the direction that is better."""

    objective: str
    better: Direction
