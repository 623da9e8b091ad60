"""Stage "statistics": importance scores and moments for the axes, from passes of the teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from objectives.process import Progress
from search.config.schema import RunConfig
from search.tasks import task_of
from search.tasks.encoded import epochs, read_encoded, training_rows
from spaces.errors import Infeasible

if TYPE_CHECKING:
    pass
from search.prepare.folders import input_names, torch_with

STATISTICS_ROWS = 1024


def make_statistics(
    folder: Path, config: RunConfig, data: Path, teacher: Path, device: str, threads: int, progress: Progress
) -> None:
    """Write `statistics.safetensors` of the teacher on training rows; `unknown.txt` for a model of unknown anatomy.

    The passes run on `device`, with `threads` threads on the host.
    """
    from spaces import build
    from spaces.statistics_pass import IMPORTANCE_ROWS, collect

    torch = torch_with(threads)
    model = build.load_model(teacher).to(device)
    encoded, targets = read_encoded(data / "train.npz")
    all_targets = torch.from_numpy(targets)
    task = task_of(config, targets)
    longest = config.data.max_length
    rows, _ = training_rows(len(encoded), config.seed, task.most_rows(STATISTICS_ROWS, longest))
    batches = epochs(encoded, input_names(teacher), task.most_rows(32, longest), config.seed, rows)(0)
    try:
        statistics = collect(
            model,
            (({n: t.to(device) for n, t in inputs.items()}, all_targets[rows].to(device)) for inputs, rows in batches),
            task.loss,
            task.divergence,
            partial(progress, "statistics"),
            task.most_rows(IMPORTANCE_ROWS, longest),
        )
    except Infeasible as reason:
        (folder / "unknown.txt").write_text(str(reason), encoding="utf-8")
        return
    statistics.save(folder / "statistics.safetensors")
