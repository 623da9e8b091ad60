"""`python -m search check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import Debug, Mlruns, results
from search.cli.terminal import complain, say

EXAMPLE = "python -m search check mlruns/exports/movie-reviews/models/5"


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of an exported model")],
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """load an exported model in a fresh process, measure it again, and compare with its record"""
    from search.deliver.verify import check as check_folder

    result = check_folder(folder, results(mlruns))
    say(result.lines)
    if result.problem:
        complain(f"failed: {result.problem}")
        return 1
    print(result.verdict)
    return 0
