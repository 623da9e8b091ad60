"""Which deployments (a runtime with a precision) a set of weights is measured under."""

from __future__ import annotations

from collections.abc import Mapping

from search.front.estimates import Estimate, difference
from search.space.space import Space, siblings
from spaces.recipe import Recipe


class Siblings:
    """Which other pairs of runtime and width a set of weights is measured under.

    Every pair that needs no new training, less those the baselines have shown to be hopeless: slower than another
    pair by more than `HOPELESS` while surely no more accurate, on the uncompressed model. Sure is what the losses'
    intervals say: on few rows a low precision may look better by chance. In fp32 all runtimes give the same outputs
    (each is checked), so nothing is left to chance there.
    """

    HOPELESS = 1.15

    def __init__(self, space: Space) -> None:
        self._space = space
        self._pairs = space.pairs

    def learn(self, baselines: Mapping[tuple[str, str], tuple[Estimate, float]]) -> None:
        """From the uncompressed model's outcomes: {(runtime, width): (loss in points, milliseconds)}."""
        measured = dict(baselines)

        def no_better(pair: tuple[str, str], other: tuple[str, str]) -> bool:
            return pair[1] == other[1] == "fp32" or difference(measured[other][0], measured[pair][0]).high <= 0

        def hopeless(pair: tuple[str, str]) -> bool:
            slow = measured[pair][1]
            return any(ms * self.HOPELESS < slow and no_better(pair, other) for other, (_, ms) in measured.items())

        self._pairs = tuple(p for p in self._space.pairs if p in measured and not hopeless(p))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Runtime and width that are worth measuring, as far as is known."""
        return self._pairs

    def __call__(self, recipe: Recipe) -> tuple[Recipe, ...]:
        return siblings(recipe, self._pairs)
