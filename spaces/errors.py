"""What is raised when a recipe cannot exist here."""

from __future__ import annotations


class Infeasible(Exception):  # noqa: N818 - a finding about a recipe, not an error of the program
    """This recipe cannot exist here, and why: no kernel for the precision, a missing package or compiler."""
