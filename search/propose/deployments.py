"""Which deployments (a runtime with a precision) a set of weights is measured under."""

from __future__ import annotations

from collections.abc import Mapping

from objectives.estimate import Estimate, difference
from search.space.deployments import Deployment, siblings
from search.space.space import Space
from spaces.recipe import Recipe


class DeploymentSelector:
    """Which other deployments a set of weights is measured under.

    Every deployment that needs no new training, less those the baselines have shown to be hopeless: slower than another
    deployment by more than `HOPELESS` while surely no more accurate, on the uncompressed model. Sure is what the
    losses' intervals say: on few rows a low precision may look better by chance. In fp32 all runtimes give the same
    outputs (each is checked), so nothing is left to chance there.
    """

    HOPELESS = 1.15

    def __init__(self, space: Space) -> None:
        self._space = space
        self._pairs = space.deployments

    def learn(self, baselines: Mapping[Deployment, tuple[Estimate, float]]) -> None:
        """From the uncompressed model's outcomes: {(runtime, precision): (loss in points, milliseconds)}."""
        measured = dict(baselines)

        def no_better(deployment: Deployment, other: Deployment) -> bool:
            return (
                deployment[1] == other[1] == "fp32" or difference(measured[other][0], measured[deployment][0]).high <= 0
            )

        def hopeless(deployment: Deployment) -> bool:
            slow = measured[deployment][1]
            return any(
                ms * self.HOPELESS < slow and no_better(deployment, other) for other, (_, ms) in measured.items()
            )

        self._pairs = tuple(p for p in self._space.deployments if p in measured and not hopeless(p))

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Runtime and precision that are worth measuring, as far as is known."""
        return self._pairs

    def __call__(self, recipe: Recipe) -> tuple[Recipe, ...]:
        return siblings(recipe, self._pairs)
