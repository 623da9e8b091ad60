"""`python -m search cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli.options import Debug, Mlruns, number_option, results
from search.cli.terminal import say
from search.errors import UserError

EXAMPLE = "python -m search cache --max-gb 5"


def cache(
    max_gb: Annotated[
        float | None,
        typer.Option(
            "--max-gb",
            parser=number_option(0),
            metavar="N",
            help="remove entries until at most so much is left that exports do not hold too",
        ),
    ] = None,
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """show what is kept for later trials and searches, and remove what was used longest ago"""
    from search.report.store_lines import cache_lines, removed_line
    from search.store.store import Store

    folder = results(mlruns)
    store = Store(folder / "cache")
    if not store.root.is_dir():
        raise UserError(f"--mlruns: no cache in {folder}; a run makes one: python -m search run")
    if max_gb is not None:
        print(removed_line(store.prune(int(max_gb * 1e9))))
    say(cache_lines(store))
    return 0
