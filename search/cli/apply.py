"""`python -m search apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import Debug, Mlruns, results
from search.cli.terminal import say

EXAMPLE = "python -m search apply mlruns/exports/movie-reviews/best-config.yaml"


def apply(
    best: Annotated[Path, typer.Argument(metavar="BEST.yaml", help="the record of one model of a front")],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="default: MLRUNS/exports/STUDY/rebuilt/NUMBER"),
    ] = None,
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """rebuild a model here from its base model and recipe, and measure it"""
    from search.deliver.best_config import read_best_config
    from search.deliver.rebuild import config_of, rebuild
    from search.deliver.written_files import free_folder
    from search.report.progress import Lines

    if to is not None:
        free_folder(to)
    folder = results(mlruns)
    record = read_best_config(best)  # its study's name, which the default target has in it, is one folder's
    target = to or folder / "exports" / record.study / "rebuilt" / str(record.number)
    say(rebuild(config_of(record, best, folder), record, target, Lines(1)))
    print(target)
    return 0
