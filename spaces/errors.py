"""The exception of recipes that cannot be built or run."""

from __future__ import annotations


class Infeasible(Exception):  # noqa: N818 - a finding about a recipe, not an error of the program
    """Why a recipe cannot be built or run here: no kernel for the precision, a missing package or compiler."""
