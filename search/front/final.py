"""The final campaign: measurements by trial, which replace those of the loop, and time ratios of every pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from objectives.estimate import Estimate
from objectives.measurement import Measurement

TrialPair = tuple[int, int]


@dataclass(frozen=True)
class Final:
    """The campaign's results, empty without one. Workloads are named by their suffix; "" is the main one."""

    measurements: Mapping[int, Mapping[str, Measurement]] = field(default_factory=dict)
    # the first trial's time over the second's
    ratios: Mapping[str, Mapping[TrialPair, Estimate]] = field(default_factory=dict)
    references: Mapping[str, Estimate] = field(default_factory=dict)  # latency of the baseline, in ms
    late: Mapping[int, str] = field(default_factory=dict)  # why members keep their quick timing, by trial
    digest: str = ""  # of the models and the protocol: an equal campaign is not repeated

    @property
    def contenders(self) -> frozenset[int]:
        """Trials that may be on the front: those of the campaign and those that were too late for it."""
        return frozenset(self.measurements) | frozenset(self.late)

    def ratio(self, a: int, b: int, mark: str = "") -> Estimate | None:
        """The time of trial `a` over that of `b` under a workload; None where they were not timed together."""
        ratios = self.ratios.get(mark, {})
        if (a, b) in ratios:
            return ratios[a, b]
        if (b, a) in ratios:
            value, low, high = ratios[b, a]
            return Estimate(1 / value, 1 / high, 1 / low)
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {
            "measurements": {
                str(number): {name: m.to_json() for name, m in values.items()}
                for number, values in self.measurements.items()
            },
            "ratios": {mark: [[*pair, *ratio] for pair, ratio in pairs.items()] for mark, pairs in self.ratios.items()},
            "references": {mark: list(values) for mark, values in self.references.items()},
            "late": {str(number): why for number, why in self.late.items()},
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Final:
        """The results that `to_json` wrote. Raises KeyError where a field is missing."""
        return cls(
            measurements={
                int(number): {name: Measurement.from_json(m) for name, m in values.items()}
                for number, values in data["measurements"].items()
            },
            ratios={
                mark: {(int(a), int(b)): Estimate(*ratio) for a, b, *ratio in values}
                for mark, values in data["ratios"].items()
            },
            references={mark: Estimate(*values) for mark, values in data["references"].items()},
            late={int(number): why for number, why in data["late"].items()},
            digest=data["digest"],
        )
