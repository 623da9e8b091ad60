"""`python -m search compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli.options import Debug, Mlruns, results
from search.cli.terminal import complain, say, say_unfinished

EXAMPLE = "python -m search compare movie-reviews movie-reviews-tpe"


def compare(
    first: Annotated[str, typer.Argument(metavar="STUDY", help="name of a study")],
    second: Annotated[str, typer.Argument(metavar="STUDY", help="name of another one")],
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """show what differs between two studies, and whose models dominate the other's"""
    from search.deliver.read_study import read_study
    from search.report.comparison import comparison_lines

    folder = results(mlruns)
    studies = [read_study(folder, name) for name in (first, second)]
    for _, record in studies:
        say_unfinished(record)
    say(comparison_lines(*studies))
    if any(front.members for front, _ in studies):
        return 0
    complain(f"no trial of {first} or {second} is complete and inside the limits")
    return 1
