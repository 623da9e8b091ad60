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
    from search.deliver.later import export_later
    from search.deliver.stored import stored
    from search.deliver.written import free_place

    if to is not None:
        free_place(to)
    folder = results(mlruns)
    front, record = stored(folder, study)
    say_unfinished(record)
    print(export_later(front, record, folder, pick, to))
    return 0
