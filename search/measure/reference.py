"""The reference latency of the baseline under each workload, to which all latencies of a results folder are scaled.

Models are always timed beside the baseline, because the speed of a machine changes between trials. Scaled to one
reference, their milliseconds are comparable over trials, searches and days.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from objectives.bench import Batch
from objectives.estimate import Estimate
from objectives.measurement import Measurement
from search.store import atomic
from search.store.locks import alone_in

#: A noisy reference is measured again by later runs, up to this many times in all.
ATTEMPTS = 4


@dataclass(frozen=True)
class Reference:
    """The latency of the baseline, with its interval and the conditions of the measurement."""

    ms: float
    interval: tuple[float, float]  # 95 %, over fresh processes
    noisy: str  # the reasons not to trust it, or ""
    others: float  # share of the CPUs' time that went elsewhere
    measured_at: str  # UTC
    attempts: int = 1

    @classmethod
    def of(cls, measured: Measurement) -> Reference:
        """The reference of a latency that was measured just now."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        conditions = measured.conditions
        others = float(conditions.get("others_cpu_share", 0.0))
        return cls(measured.value, measured.interval, str(conditions.get("noisy", "")), others, now)

    @property
    def estimate(self) -> Estimate:
        """The latency in ms with its 95 % interval."""
        return Estimate(self.ms, *self.interval)

    def or_better(self, again: Reference) -> Reference:
        """The less disturbed of two references, whatever their times; counts one more attempt."""
        better = again if (bool(again.noisy), again.others) < (bool(self.noisy), self.others) else self
        return replace(better, attempts=self.attempts + 1)


class References:
    """References stored in `folder`, one file per workload, machine and architecture of the baseline.

    Args:
        about: what the reference depends on beside the workload: the baseline's architecture.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._folder, self._about = folder, about
        self._references: dict[Path, Reference] = {}

    def of(
        self, inputs: Sequence[Batch], conditions: Mapping[str, Any], measure: Callable[[], Measurement]
    ) -> Reference:
        """The stored reference of these conditions, or a new one from `measure`.

        It does not change during the life of this object. A reference that an earlier run marked noisy is measured
        again, and the better of the two is stored. A damaged file is replaced.
        """
        shapes = [[*array.shape] for batch in inputs for array in batch.values()]
        key = {**self._about, "conditions": dict(conditions), "shapes": shapes}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
        path = self._folder / f"reference-{digest}.json"
        if path not in self._references:
            self._folder.mkdir(parents=True, exist_ok=True)
            with alone_in(self._folder):  # of two searches that begin together the second takes what the first measured
                reference = _read(path)
                if reference is None or (reference.noisy and reference.attempts < ATTEMPTS):
                    now = Reference.of(measure())
                    reference = now if reference is None else reference.or_better(now)
                    text = json.dumps({**asdict(reference), "conditions": dict(conditions)}, default=str)
                    atomic.write_text(path, text)
            self._references[path] = reference
        return self._references[path]


def _read(path: Path) -> Reference | None:
    """The reference in the file; None where it is absent or damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        low, high = data["interval"]
        rest = {name: data[name] for name in ("noisy", "others", "measured_at", "attempts")}
        reference = Reference(data["ms"], (low, high), **rest)
        whole = all(isinstance(x, float) and math.isfinite(x) and x > 0 for x in (reference.ms, low, high))
        whole &= isinstance(reference.noisy, str) and isinstance(reference.attempts, int)
        return reference if whole and low <= reference.ms <= high else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
