"""A measured number with unit, direction and interval, and the objectives that can be measured."""

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
        """The value with its 95 % interval."""
        return Estimate(self.value, *self.interval)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
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
        """The measurement that `to_json` wrote. Raises KeyError where a field is missing."""
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
        """A measurement of this objective; `samples` is the number of observations of the value."""
        return Measurement(self.name, self.unit, self.better, value, interval, samples, dict(conditions))

    def counted(self, value: float, conditions: Mapping[str, Any]) -> Measurement:
        """A measurement that is exact, or observed once: its interval has no width."""
        return self.measured(value, (value, value), 1, conditions)


#: Conditions that must be equal for two measurements to be compared: device, threads, inputs, way of measuring.
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
    """ "" when two measurements may be compared, else the conditions that differ: "threads: 2, and 4".

    A condition that only one of them has is a difference.
    """
    same = (("objective", a.objective, b.objective), ("unit", a.unit, b.unit))
    conditions = ((key, a.conditions.get(key), b.conditions.get(key)) for key in TOLD_APART)
    return "; ".join(f"{key}: {one}, and {other}" for key, one, other in (*same, *conditions) if one != other)
