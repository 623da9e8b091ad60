"""What a measured number is, and who measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from objectives.estimate import Estimate

Direction = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One objective of one candidate, with all that is needed to read the number."""

    objective: str  # "accuracy", "latency_p50_ms", "size_mb"
    unit: str  # "fraction", "ms", "MB"
    better: Direction
    value: float
    interval: tuple[float, float]  # 95 %; equal ends for what is counted rather than sampled
    samples: int  # how many observations the value rests on
    conditions: Mapping[str, Any] = field(default_factory=dict)  # device, threads, batch, length, notes

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, *self.interval)

    def to_json(self) -> dict[str, Any]:
        return {
            "objective": self.objective,
            "unit": self.unit,
            "better": self.better,
            "value": self.value,
            "interval": list(self.interval),
            "samples": self.samples,
            "conditions": dict(self.conditions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        low, high = data["interval"]
        return cls(
            objective=data["objective"],
            unit=data["unit"],
            better=data["better"],
            value=data["value"],
            interval=(low, high),
            samples=data["samples"],
            conditions=dict(data["conditions"]),
        )


def _on_every_device(device: str) -> str:
    """The default of `Objective.missing`: nothing is missing."""
    return ""


@dataclass(frozen=True, slots=True)
class Objective:
    """Something that can be measured, and so searched for, limited or listed."""

    name: str
    unit: str
    better: Direction
    description: str
    #: Why a device of this machine ("cpu", "cuda") cannot measure it; "" where it can.
    missing: Callable[[str], str] = _on_every_device

    def measured(
        self, value: float, interval: tuple[float, float], samples: int, conditions: Mapping[str, Any]
    ) -> Measurement:
        return Measurement(self.name, self.unit, self.better, value, interval, samples, dict(conditions))

    def counted(self, value: float, conditions: Mapping[str, Any]) -> Measurement:
        """What is known exactly, or seen once: an interval of no width."""
        return self.measured(value, (value, value), 1, conditions)


#: Conditions under which a number means something else: device and its state, threads, what was fed, how it was seen.
TOLD_APART = (
    "device",
    "fingerprint",
    "threads",
    "omp_wait",
    "batch",
    "length",
    "fed",
    "new_tokens",
    "call",
    "split",
    "rows",
    "metric",
    "kind",
    "counter",
)


def comparable(a: Measurement, b: Measurement) -> str:
    """ "" when the two numbers may be held against each other, else why not: "threads: 2, and 4".

    A condition that only one of them knows is a difference: what is not known to be the same is not compared.
    """
    same = (("objective", a.objective, b.objective), ("unit", a.unit, b.unit))
    conditions = ((key, a.conditions.get(key), b.conditions.get(key)) for key in TOLD_APART)
    return "; ".join(f"{key}: {one}, and {other}" for key, one, other in (*same, *conditions) if one != other)
