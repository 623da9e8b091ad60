"""Stage "weights": one set of compressed weights, built in a process of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from objectives.process import Progress
from search.config.schema import RunConfig
from search.prepare.folders import finish_folder, torch_with
from search.store.atomic import write_text
from search.tasks import task_of
from spaces.knob import Value

if TYPE_CHECKING:
    from spaces.recipe import Step


TRAINING = "training.json"  # in the folder of recovered weights


def trained_s(folder: Path) -> float:
    """Seconds of the recovery of the weights in `folder` since its last interruption; 0 where the file is missing."""
    try:
        return float(json.loads((folder / TRAINING).read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def build_weights(
    folder: Path,
    config: RunConfig,
    steps: Sequence[Step],
    recover: Mapping[str, Value],
    data: Path,
    teacher: Path,
    statistics: Path,
    outputs: Path,
    device: str,
    threads: int,
    scratch: Path,
    progress: Progress,
) -> None:
    """Build one set of compressed weights: plans from the statistics, weights from the teacher, then recovery.

    The training's state is in `scratch`; after a kill the next call for these weights resumes from it.
    """
    from spaces import build
    from spaces.axes.embedding import principal
    from spaces.base import read_config, write_folder
    from spaces.statistics import Statistics

    torch = torch_with(threads)
    progress("compressing", 0.0)
    measured = Statistics.load(statistics / "statistics.safetensors")
    plans = build.decide(steps, measured)
    torch.manual_seed(config.seed)
    model = build.build(build.load_model(teacher), plans, measured)
    base, _ = read_config(teacher)
    if recover:
        from search.execute.recovery import Recovery

        size = plans.get("embedding", {}).get("size")
        projection = None if size is None else principal(measured, size)
        recovery = Recovery(
            plans, recover, config, data, teacher, outputs, device, base.inputs, scratch, progress, projection
        )
        began = time.monotonic()
        recovery.train(model)
        write_text(folder / TRAINING, json.dumps({"seconds": round(time.monotonic() - began, 3)}))
    write_folder(folder, model, base, plans)
    finish_folder(folder, model, base.inputs, data, task_of(config))
