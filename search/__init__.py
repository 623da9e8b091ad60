"""One joint search over distillation, pruning, low rank, bits and runtime, on measured numbers.

import search
result = search.run("config.yaml", trials=40)     # or search.run() for the embedded default
model = search.load("mlruns/exports/movie-reviews/models/5")
model("a film that knows what it is")             # [{"label": "positive", "score": 0.98}]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import UserError

if TYPE_CHECKING:
    from search.compose import Result
    from search.config.schema import RunConfig
    from search.serve.pipeline import ExportedModel

__version__ = "0.1.0"
__all__ = ["UserError", "load", "run"]


def run(
    config: str | Path | RunConfig | None = None,
    *,
    trials: int | None = None,
    timeout: float | None = None,
    study: str | None = None,
    overrides: Sequence[str] = (),
    task: str | None = None,
    retry_failed: bool = False,
    remeasure: bool = False,
) -> Result:
    """Search, or go on with the study of that name; the same as `python -m search run`.

    The program that calls it must be importable without running (`if __name__ == "__main__":`), because models run
    in processes of their own.

    Args:
        config: a YAML file, a RunConfig, or None for the embedded default.
        trials: the study's total.
        timeout: seconds, export included.
        study: its name.
        overrides: "key=value" texts, as `--set` takes them.
        task: its name; without a configuration, the embedded example of that task is run.
        retry_failed: try the trials again that failed in earlier runs.
        remeasure: measure again here what the study holds, as after a change of machine or of libraries.

    Raises:
        UserError: the input is wrong.
    """
    from search.compose import run as run_session
    from search.config.schema import RunConfig
    from search.report.progress import Lines
    from search.space.configured import configured

    if isinstance(config, RunConfig):
        chosen = config
    else:
        chosen = configured(None if config is None else Path(config), trials, timeout, study, None, overrides, task)
    return run_session(chosen, Lines(chosen.budget.trials), retry_failed, remeasure)


def load(folder: str | Path, device: str = "auto") -> ExportedModel:
    """The exported model in `folder`: texts in, what a transformers pipeline returns out."""
    from search.serve.pipeline import load as load_model

    return load_model(folder, device)
