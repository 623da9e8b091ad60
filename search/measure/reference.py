"""What the baseline takes under each workload: all latencies of a results folder are counted by it.

Models are always timed beside the baseline, because a machine changes its speed between one trial and the next. With
one reference for all of them their milliseconds can be held against each other, over trials, searches and days.
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

#: A noisy reference is measured again by later runs, until it was measured so many times.
ATTEMPTS = 4


@dataclass(frozen=True)
class Reference:
    """Milliseconds of the baseline, and how well they are known."""

    ms: float
    interval: tuple[float, float]  # 95 %, over fresh processes
    noisy: str  # why it is not to be trusted, or ""
    others: float  # share of the CPUs' time that went elsewhere
    measured_at: str  # UTC
    attempts: int = 1

    @classmethod
    def of(cls, measured: Measurement) -> Reference:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        known = measured.conditions
        others = float(known.get("others_cpu_share", 0.0))
        return cls(measured.value, measured.interval, str(known.get("noisy", "")), others, now)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.ms, *self.interval)

    def or_better(self, again: Reference) -> Reference:
        """The better of two, by what else the machine did, never by the time: the count goes on."""
        better = again if (bool(again.noisy), again.others) < (bool(self.noisy), self.others) else self
        return replace(better, attempts=self.attempts + 1)


class References:
    """Kept in `folder`, one file a workload, machine and architecture of the baseline.

    Args:
        about: what the baseline's time depends on beside the workload: its architecture.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._folder, self._about = folder, about
        self._known: dict[Path, Reference] = {}

    def of(
        self, inputs: Sequence[Batch], conditions: Mapping[str, Any], measure: Callable[[], Measurement]
    ) -> Reference:
        """As it was measured before under these conditions, or as `measure` says now.

        It is one and the same as long as this object lives. One that an earlier run found noisy is measured again, and
        the better of the two is kept. A file that is damaged is made again.
        """
        shapes = [[*array.shape] for batch in inputs for array in batch.values()]
        told = {**self._about, "conditions": dict(conditions), "shapes": shapes}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]
        path = self._folder / f"reference-{digest}.json"
        if path not in self._known:
            self._folder.mkdir(parents=True, exist_ok=True)
            with alone_in(self._folder):  # of two searches that begin together the second takes what the first measured
                found = _read(path)
                if found is None or (found.noisy and found.attempts < ATTEMPTS):
                    now = Reference.of(measure())
                    found = now if found is None else found.or_better(now)
                    text = json.dumps({**asdict(found), "conditions": dict(conditions)}, default=str)
                    atomic.write_text(path, text)
            self._known[path] = found
        return self._known[path]


def _read(path: Path) -> Reference | None:
    """What the file says; None without one, or where it does not say all."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        low, high = data["interval"]
        known = {name: data[name] for name in ("noisy", "others", "measured_at", "attempts")}
        found = Reference(data["ms"], (low, high), **known)
        whole = all(isinstance(x, float) and math.isfinite(x) and x > 0 for x in (found.ms, low, high))
        whole &= isinstance(found.noisy, str) and isinstance(found.attempts, int)
        return found if whole and low <= found.ms <= high else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
