"""Rungs: who goes on to a longer recovery, and who is rejected because nothing it can become reaches the front.

Asynchronous successive halving over two objectives (Schmucker, Donini, Zafar, Salinas & Archambeau 2021, arXiv
2106.12639, section 3): of the latest that were seen on a rung, ordered by layers of non-dominated points of latency and
of what the rung saw, one in `halving` goes on, as soon as it is among them. With two objectives that trade off most
candidates are in the first layer; inside a layer the order is what each was expected to add to the front when it was
seen (theirs is an epsilon net, which knows no front).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray

from search.front.outcome import LATENCY, Outcome
from search.propose.rungs import Open
from search.propose.surrogate.bounds import Bounds
from search.propose.surrogate.improvement import layers_of
from search.propose.surrogate.outlook import Outlook
from search.propose.surrogate.record import Weights
from search.space.space import PRECISION, RUNTIME, Params

Floats = NDArray[np.float64]

#: Seconds that a look takes, until one was timed.
LOOK_S = 3.0
#: Of what is left of a recovery, what a look before it saves: who waits is among the best that could be asked for.
SAVES = 0.05
#: So many that were seen on a rung before are the rivals of those that wait there.
LATEST = 8
#: At the end who waits is still trained if it is expected to add this share of the hypervolume.
WORTH = 0.005


@dataclass(frozen=True)
class Economy:
    """The rungs, and what is saved by them.

    shares: of the recovery, rising, the last 1. halving: one in so many goes on. reject: whether what cannot reach the
    front is left untrained. audit: the share of those that are trained all the same. least_gain: a trial that is
    expected to add less than this share of the hypervolume is not begun.
    """

    shares: tuple[float, ...] = (1.0,)
    halving: int = 2
    reject: bool = True
    audit: float = 0.0
    least_gain: float = 0.0
    seed: int = 0


class Ladder:
    """`Decisions` by what the outlook knows.

    Args:
        forecast: what the sampler's next trial is expected to add (log ms times quality), or None.
    """

    def __init__(
        self,
        outlook: Outlook,
        economy: Economy,
        bounds: Bounds,
        forecast: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._outlook, self._economy, self._bounds, self._forecast = outlook, economy, bounds, forecast
        self._looks: list[float] = []

    @property
    def top(self) -> int:
        return len(self._economy.shares) - 1

    @property
    def gain(self) -> float | None:
        expected = self._forecast()
        area = self._outlook.measured.area
        return None if expected is None or not math.isfinite(expected) or not area else expected / area

    def share(self, rung: int) -> float:
        return self._economy.shares[rung]

    def next(self, rung: int) -> int:
        trained = self._trained_s()
        return self.top if trained is None else self._worth(rung, trained)

    @property
    def looks(self) -> bool:
        trained = self._trained_s()
        return trained is None or self._worth(-1, trained) < self.top

    def _trained_s(self) -> float | None:
        """Seconds of a recovery, once one was timed."""
        trained = [one.seconds for one in self._outlook.known if one.seconds > 0]
        return float(np.median(trained)) if trained else None

    def _worth(self, rung: int, whole: float) -> int:
        """The rung after `rung` that saves more than it costs, of recoveries of `whole` seconds."""
        look = float(np.median(self._looks)) if self._looks else LOOK_S
        saves = [SAVES * (1 - self.share(later)) * whole > look for later in range(self.top)]
        return next((later for later in range(rung + 1, self.top) if saves[later]), self.top)

    def rejected(self, study: optuna.Study, settings: Params, number: int) -> tuple[str, str]:
        self._outlook.look(study)
        if not self._economy.reject:
            return "", ""
        one = self._outlook.of(settings)
        reason = "" if one is None else self._bounds.verdict(one)
        if not reason:
            return "", ""
        drawn = float(np.random.default_rng((self._economy.seed, number)).random())
        return ("", reason) if drawn < self._economy.audit else (reason, "")

    def promoted(self, study: optuna.Study, waiting: Mapping[str, Open]) -> str | None:
        """The highest rung first."""
        if not waiting:
            return None
        audited = next((digest for digest, one in waiting.items() if one.audit), None)
        if audited is not None:
            return audited
        self._outlook.look(study)
        for rung in range(self.top - 1, -1, -1):
            known = {d: self._outlook.of(one.settings) for d, one in waiting.items() if one.rung == rung}
            here = {digest: one for digest, one in known.items() if one is not None}
            allowed = self._allowed(rung, list(here.values())) if here else []
            for digest, one in here.items():
                if any(one is other for other in allowed):
                    return digest
        return None

    def last(self, study: optuna.Study, waiting: Mapping[str, Open]) -> tuple[str, str]:
        """The one that is expected to add most, as long as that is worth it; then the others are dismissed."""
        self._outlook.look(study)
        if not self._outlook.bounded:  # nothing says what it is worth
            return next(iter(waiting)), ""
        area = max(self._outlook.measured.area, 1e-12)
        known = {digest: self._outlook.of(one.settings) for digest, one in waiting.items()}
        gains = {digest: 0.0 if one is None else self._bounds.expected(one) / area for digest, one in known.items()}
        best = max(gains, key=lambda digest: gains[digest])
        if gains[best] >= WORTH:
            return best, ""
        rung = waiting[best].rung
        return best, f"seen on rung {rung}, and expected to add {100 * gains[best]:.2g} % to the front"

    def enough(self) -> bool:
        gain = self.gain
        return gain is not None and gain < self._economy.least_gain

    def timed(self, outcome: Outcome) -> None:
        if "look" in outcome.seconds:
            self._looks.append(outcome.seconds["look"])

    def guess(self, outcome: Outcome) -> Mapping[str, float] | None:
        """What the highest rung saw, or the model expects; latency as the table predicts it."""
        one = self._outlook.of(outcome.recipe.params)
        if one is None:
            return None
        quality = one.rungs[max(one.rungs)] if one.rungs else self._outlook.quality(one)[0]
        params = outcome.recipe.params
        deployment = (str(params[RUNTIME]), str(params.get(PRECISION, "fp32")))
        if deployment not in self._outlook.deployments:
            return None
        cost = float(self._outlook.predicted(one)[self._outlook.deployments.index(deployment)])
        return {self._outlook.target.objective: quality, LATENCY: math.exp(cost)}

    def _allowed(self, rung: int, waiting: Sequence[Weights]) -> list[Weights]:
        """Of the latest that were seen on a rung those that go on, or went."""
        mine = {id(one) for one in waiting}
        rivals = [one for one in self._outlook.known if rung in one.rungs and id(one) not in mine]
        seen = [*rivals[-LATEST:], *waiting]
        points = np.array([[float(np.min(self._outlook.costs(one)[0])), -one.rungs[rung]] for one in seen])
        layers = layers_of(points)
        now = {id(one): self._bounds.expected(one) for one in waiting}
        # Of those that went on, what was expected before they did; an anchor never waited for a decision.
        gains = [now.get(id(one), one.gains.get(rung, 0.0)) for one in seen]
        order = sorted(range(len(seen)), key=lambda i: (layers[i], -gains[i]))
        return [seen[i] for i in order[: math.ceil(len(seen) / self._economy.halving)]]

    def expected(self, study: optuna.Study, settings: Params) -> float | None:
        self._outlook.look(study)
        one = self._outlook.of(settings)
        gain = math.inf if one is None else self._bounds.expected(one)
        return gain if math.isfinite(gain) else None
