"""`python -m search list`."""

from __future__ import annotations

from search.cli.options import Debug, Mlruns
from search.cli.terminal import say

EXAMPLE = "python -m search list"


def listing(mlruns: Mlruns = None, debug: Debug = False) -> int:
    """axes, runtimes, objectives, tasks, metrics and samplers, and what this machine can run"""
    from search.report.listing import lines

    say(lines())
    return 0
