"""`python -m search export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import Debug, Mlruns, Study, results
from search.cli.terminal import say_unfinished

EXAMPLE = "python -m search export movie-reviews --pick fastest --to fast-model"


def export(
    study: Study,
    pick: Annotated[
        str | None,
        typer.Option("--pick", metavar="NAME", help="balanced, fastest, most-accurate, or a trial's number"),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="default: MLRUNS/exports/STUDY"),
    ] = None,
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """write a study's front, or one of its models, to a folder"""
    from search.deliver.export_study import export_study
    from search.deliver.read_study import read_study
    from search.deliver.written_files import free_folder

    if to is not None:
        free_folder(to)
    folder = results(mlruns)
    front, record = read_study(folder, study)
    say_unfinished(record)
    print(export_study(front, record, folder, pick, to))
    return 0
