"""The interface of an executor: it takes a job and returns outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from search.front.outcome import Outcome
from spaces.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """A recipe, and recipes of the same weights to measure with it."""

    recipe: Recipe
    siblings: tuple[Recipe, ...] = ()
    baseline: bool = False


Evaluate = Callable[[Job], Iterable[Outcome]]
