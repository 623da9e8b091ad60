"""Looks at a candidate on the way to its full recovery: the task's metric on some validation rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from objectives import quality
from search.config.schema import RunConfig
from search.store.atomic import write_text
from search.tasks import task_named
from search.tasks.encoded import read_encoded
from search.tasks.tokens import by_length

if TYPE_CHECKING:
    from spaces.base import TaskModel

FILE = "looks.json"  # in the folder of what was looked at
BATCH = 32


@dataclass(frozen=True)
class Looks:
    """What was seen: the metric by the share of the recovery that was done, and the seconds of training until there.

    What `of` says, the metric and the rows, is equal for looks that may be compared.
    """

    quality: dict[float, float] = field(default_factory=dict)
    trained_s: float = 0.0
    of: str = ""

    def write(self, path: Path) -> None:
        seen = [{"share": share, "quality": value} for share, value in self.quality.items()]
        write_text(path, json.dumps({"of": self.of, "looks": seen, "trained_s": self.trained_s}))

    @classmethod
    def read(cls, path: Path, of: str) -> Looks:
        """What was written; nothing for weights that nobody looked at, or where it is damaged.

        Of looks at something else than `of` (another search's metric or rows) only the seconds are left.
        """
        try:
            data = json.loads(path.read_text())
            same = data["of"] == of
            seen = {float(s["share"]): float(s["quality"]) for s in data["looks"] if same}
            return cls(seen, float(data["trained_s"]), of)
        except (OSError, ValueError, KeyError, TypeError):
            return cls(of=of)

    def by_rung(self, shares: Sequence[float]) -> dict[int, float]:
        """The metric by the number of the rung that looks after each of `shares`."""
        return {rung: self.quality[share] for rung, share in enumerate(shares) if share in self.quality}


def looked_at(config: RunConfig) -> str:
    """What this search looks at; looks of two searches agree where this does."""
    return f"{config.metric} on {config.economy.rows} validation rows, seed {config.seed}"


def look(model: TaskModel, config: RunConfig, data: Path, names: Sequence[str], device: str) -> float:
    """The metric of `model`, as it is, on `economy.rows` of the validation split: the same rows at every look."""
    import torch

    encoded, labels = read_encoded(data / "validation.npz")
    rows = np.random.default_rng(config.seed).permutation(len(labels))[: config.economy.rows]
    order = rows[by_length(encoded.lengths[rows], BATCH)]
    model.to(device).eval()
    logits = []
    with torch.inference_mode():
        for first in range(0, len(order), BATCH):
            batch = encoded.batch(order[first : first + BATCH])
            logits.append(model(**{n: torch.from_numpy(batch[n]).to(device) for n in names}).float().cpu().numpy())
    model.to("cpu")
    outputs = np.concatenate(logits)
    decided = task_named(config.task).decide({"logits": outputs})
    return quality.score(config.metric, decided, labels[order], outputs.shape[-1])


def recover_with_looks(
    shares: Sequence[float], look_now: Callable[[], float], train_to: Callable[[float], None], notes: Path, of: str
) -> Looks:
    """Train to each of `shares` in turn and look there, but after the whole: that is measured otherwise.

    Args:
        shares: of the recovery, rising.
        train_to: goes on with the recovery until that share of it.
        notes: what was seen is kept in this file, so that a training that goes on passes no look again.
        of: what is looked at (`looked_at`).
    """
    known = Looks.read(notes, of)
    seen, trained = dict(known.quality), known.trained_s
    for share in shares:
        if share in seen:
            continue
        if share > 0:
            began = time.monotonic()
            train_to(share)
            trained += time.monotonic() - began
        if share < 1:
            seen[share] = look_now()
            Looks(seen, trained, of).write(notes)
    return Looks(seen, trained, of)
