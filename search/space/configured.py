"""The configuration of a run: a YAML file or the embedded default, with what the caller named on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search.config.load import load_config
from search.config.schema import RunConfig
from search.config.source import Override
from search.space.choices import check_choices, names


def configured(
    path: Path | None = None,
    trials: Any = None,
    timeout: Any = None,
    study: str | None = None,
    mlruns: Path | None = None,
    overrides: Sequence[str] = (),
    task: str | None = None,
) -> RunConfig:
    """The checked configuration in `path` (None: the embedded example of the task) with the other arguments on top.

    `trials` and `timeout` may be numbers or a flag's text. `overrides` are "key=value" texts, as `--set` takes them.

    Raises:
        UserError: the file or a value is wrong; a value is named by its flag.
    """
    flags: list[str | Override] = list(overrides)
    for key, flag, value in (
        ("budget.trials", "--trials", as_number(trials)),
        ("budget.timeout", "--timeout", as_number(timeout)),
        ("task", "--task", task),
        ("study", "--study", study),
        ("mlruns", "--mlruns", None if mlruns is None else str(mlruns)),
    ):
        if value is not None:
            flags.append(Override(key, value, flag))
    config = load_config(path, flags, names())
    check_choices(config)
    return config


def as_number(value: Any) -> Any:
    """A flag's text as a number where it is one; any other text unchanged, which the check of its key refuses."""
    for kind in (int, float):
        try:
            return kind(value)
        except (TypeError, ValueError):
            continue
    return value
