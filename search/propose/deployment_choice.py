"""Which deployments (a runtime with a precision and a cache) a set of weights is measured under."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from objectives import kv_cache, memory
from objectives.estimate import Estimate, difference
from search.space.deployments import Deployment, fixed_precision, siblings
from search.space.space import Space
from spaces.recipe import Recipe

#: Objectives that a cache may be slower for.
OF_MEMORY = frozenset(objective.name for objective in (*kv_cache.OBJECTIVES, *memory.OBJECTIVES))


class DeploymentSelector:
    """Selects the other deployments that a set of weights is measured under.

    These are all deployments except dominated ones. A deployment is dominated where, on the uncompressed model, another
    is faster by more than a factor of `MARGIN`, and it is with 95 % confidence not more accurate than the other. The
    confidence is that of the losses' intervals, because on few rows a low precision may score better by chance. In fp32
    all runtimes give the same outputs (each is checked), so only the time counts, and so it does between two caches of
    one runtime that lose nothing.
    """

    MARGIN = 1.15

    def __init__(self, space: Space, objectives: Collection[str] = ()) -> None:
        """`objectives`: of the search. Where memory is one, no cache is dominated by another."""
        self._space = space
        self._memory_counts = not OF_MEMORY.isdisjoint(objectives)
        self._deployments = space.deployments
        self._fixed = fixed_precision(space.knobs)

    def learn(self, baselines: Mapping[Deployment, tuple[Estimate, float]]) -> None:
        """Drop dominated deployments, given the uncompressed model's (loss in points, milliseconds) by deployment."""
        measured = dict(baselines)

        def no_more_accurate(deployment: Deployment, other: Deployment) -> bool:
            lost = difference(measured[other][0], measured[deployment][0])
            return deployment.gives_what(other) or lost.high <= 0

        def comparable(deployment: Deployment, other: Deployment) -> bool:
            return deployment.cache == other.cache or not self._memory_counts

        def dominated(deployment: Deployment) -> bool:
            own_ms = measured[deployment][1]
            return any(
                ms * self.MARGIN < own_ms and comparable(deployment, other) and no_more_accurate(deployment, other)
                for other, (_, ms) in measured.items()
            )

        self._deployments = tuple(p for p in self._space.deployments if p in measured and not dominated(p))

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """The deployments that are not dominated."""
        return self._deployments

    def __call__(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """The recipes of the same weights under the other deployments."""
        return siblings(recipe, self._deployments, self._fixed)
