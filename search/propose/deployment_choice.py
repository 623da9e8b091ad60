"""Which deployments (a runtime with a precision and a cache) a set of weights is measured under."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from objectives import kv_cache, memory
from objectives.estimate import Estimate, difference
from search.front.front import Front
from search.front.outcome import LATENCY, LOSS, Outcome
from search.measure.limits import limits_of
from search.prepare.prepared import Prepared
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
    one runtime that lose nothing. What else is an objective or limited, such as the size, must be no better by more
    than `ALIKE`.
    """

    MARGIN = 1.15
    ALIKE = 0.05

    def __init__(self, space: Space, objectives: Collection[str] = ()) -> None:
        """`objectives`: of the search. Where memory is one, no cache is dominated by another."""
        self._space = space
        self._memory_counts = not OF_MEMORY.isdisjoint(objectives)
        self._deployments = space.deployments
        self._fixed = fixed_precision(space.knobs)

    def learn(
        self,
        baselines: Mapping[Deployment, tuple[Estimate, float]],
        further: Mapping[Deployment, tuple[float, ...]] = MappingProxyType({}),
    ) -> None:
        """Drop dominated deployments, given what was measured of the uncompressed model under each.

        Args:
            baselines: loss in points, and milliseconds.
            further: values of other objectives and of limited figures, lower is better; of all `baselines` or of none.
        """
        measured = dict(baselines)

        def no_more_accurate(deployment: Deployment, other: Deployment) -> bool:
            lost = difference(measured[other][0], measured[deployment][0])
            return deployment.gives_what(other) or lost.high <= 0

        def comparable(deployment: Deployment, other: Deployment) -> bool:
            if deployment.cache != other.cache and self._memory_counts:
                return False
            pairs = zip(further.get(deployment, ()), further.get(other, ()), strict=True)
            return all(theirs - mine <= self.ALIKE * abs(mine) for mine, theirs in pairs)

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


def learner(selector: DeploymentSelector, prepared: Prepared) -> Callable[[Outcome, Front], None]:
    """An observer that passes what was measured of the uncompressed model to `selector`."""
    time = prepared.time_objective or LATENCY
    signs = {limit.measurement: limit.sign for limit in limits_of(prepared.config.limits, prepared.metric)}
    signs |= {target.objective: 1 if target.better == "lower" else -1 for target in prepared.targets}
    counted = {name: sign for name, sign in signs.items() if name not in (time, LOSS, prepared.metric)}
    baselines: dict[Deployment, tuple[Estimate, float]] = {}
    further: dict[Deployment, tuple[float, ...]] = {}

    def learn(outcome: Outcome, _: Front) -> None:
        if outcome.baseline and outcome.status == "complete":
            deployment = Deployment.of(outcome.recipe.params)
            baselines[deployment] = (outcome.measurements[LOSS].estimate, outcome.value(time))
            further[deployment] = tuple(sign * outcome.value(name) for name, sign in counted.items())
            selector.learn(baselines, further)

    return learn
