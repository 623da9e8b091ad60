"""What the baseline takes under each workload, measured once: all latencies of a results folder are of one speed.

Models are always timed beside the baseline, because a machine changes its speed between one trial and the next. With
one reference for all of them their milliseconds can be held against each other, over trials, searches and days.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives.bench import Batch
from search import atomic
from search.lock import alone_in


class References:
    """Kept in `folder`, one file a workload, machine and architecture of the baseline.

    Args:
        about: what the baseline's time depends on beside the workload: its architecture.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._folder, self._about = folder, about
        self._known: dict[Path, float] = {}

    def ms(self, inputs: Sequence[Batch], conditions: Mapping[str, Any], measure: Callable[[], float]) -> float:
        """Milliseconds of the baseline: as they were measured before under these conditions, or as `measure` says now.

        A file that is damaged is made again.
        """
        shapes = [[*array.shape] for batch in inputs for array in batch.values()]
        told = {**self._about, "conditions": dict(conditions), "shapes": shapes}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]
        path = self._folder / f"reference-{digest}.json"
        if path not in self._known:
            self._folder.mkdir(parents=True, exist_ok=True)
            with alone_in(self._folder):  # of two searches that begin together the second takes what the first measured
                found = _read(path)
                if found is None:
                    found = measure()
                    atomic.write_text(path, json.dumps({"ms": found, "conditions": dict(conditions)}, default=str))
            self._known[path] = found
        return self._known[path]


def _read(path: Path) -> float | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["ms"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, float) and math.isfinite(found) and found > 0 else None
