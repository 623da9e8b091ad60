"""What an executor is given and gives: a job becomes outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from search.front.outcome import Outcome
from spaces.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """A recipe, the rung to take it to, and recipes of the same weights to measure with it."""

    recipe: Recipe
    siblings: tuple[Recipe, ...] = ()
    share: float = 1.0  # of the recovery after which it is looked at; below 1 a lower rung
    rung: int = 0
    looks: bool = True  # whether a full recovery is looked at on its way, where lower rungs are
    baseline: bool = False
    rejected: str = ""  # why it is not to be built at all
    audit: str = ""  # why it would have been


Evaluate = Callable[[Job], Iterable[Outcome]]
