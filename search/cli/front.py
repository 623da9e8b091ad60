"""`python -m search front`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from search.cli.options import Debug, Mlruns, Study, number_option, results
from search.cli.terminal import complain, say, say_unfinished, show_table

EXAMPLE = "python -m search front movie-reviews --max-loss 1.0"


def front(
    study: Study,
    as_json: Annotated[bool, typer.Option("--json", help="as front.json has it")] = False,
    max_latency_ms: Annotated[
        float | None,
        typer.Option("--max-latency-ms", parser=number_option(), metavar="X", help="only members at most this slow"),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            "--max-loss",
            parser=number_option(),
            metavar="P",
            help="only members that lose at most P points, or % of an error",
        ),
    ] = None,
    mlruns: Mlruns = None,
    debug: Debug = False,
) -> int:
    """show the front of a study"""
    from search.deliver.best_config import plain_json
    from search.deliver.read_study import read_study
    from search.report.cache_sentences import slower_caches
    from search.report.text import census, front_json, pick_lines

    chosen, record = read_study(results(mlruns), study)
    chosen = chosen.within(max_latency_ms, max_loss)
    say_unfinished(record)
    if as_json:
        print(json.dumps(plain_json(front_json(chosen, record)), indent=1))
        return 0
    if not chosen.members:
        complain(f"no trial of {study} is complete and inside the limits")
        return 1
    show_table(chosen, record)
    say([*slower_caches(chosen), census(chosen), *pick_lines(chosen)])
    return 0
