"""`python -m search doctor`."""

from __future__ import annotations

from search.cli.options import Debug, Mlruns
from search.cli.terminal import say

EXAMPLE = "python -m search doctor"


def doctor(mlruns: Mlruns = None, debug: Debug = False) -> int:
    """what is missing here, and the command that brings it"""
    from search.report.doctor import doctor_lines

    say(doctor_lines())
    return 0
