"""What a proposer asks about candidates that are looked at before they are recovered in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import optuna

from search.front.outcome import Outcome
from search.space.space import Params


@dataclass(frozen=True)
class Open:
    """A candidate that waits on a lower rung; its trial is open."""

    settings: Params
    rungs: Mapping[int, float] = field(default_factory=dict)  # what was seen of the metric
    audit: str = ""  # why it would have been rejected

    @property
    def rung(self) -> int:
        """The highest it was seen on."""
        return max(self.rungs)


class Decisions(Protocol):
    """Who is looked at on which rung, and what becomes of them."""

    @property
    def top(self) -> int:
        """The rung of the full recovery."""
        ...

    @property
    def gain(self) -> float | None:
        """What the next trial is expected to add, as a share of the hypervolume; None where nobody knows."""
        ...

    def share(self, rung: int) -> float:
        """Of the recovery, after which this rung looks."""
        ...

    def next(self, rung: int) -> int:
        """The rung after `rung` (-1: none yet) that is worth its cost."""
        ...

    @property
    def looks(self) -> bool:
        """Whether a full recovery is to be looked at on its way, so that what lower rungs see is understood."""
        ...

    def rejected(self, study: optuna.Study, settings: Params, number: int) -> tuple[str, str]:
        """(why it is not worth training or "", why it would be rejected were it not trained for an audit)."""
        ...

    def expected(self, study: optuna.Study, settings: Params) -> float | None:
        """The improvement that is expected of a candidate now (log ms times quality); None where nobody knows."""
        ...

    def promoted(self, study: optuna.Study, waiting: Mapping[str, Open]) -> str | None:
        """The digest of who goes on now."""
        ...

    def last(self, study: optuna.Study, waiting: Mapping[str, Open]) -> tuple[str, str]:
        """When no more trials may begin: (digest of who is dealt with next, why it is dismissed or "")."""
        ...

    def enough(self) -> bool:
        """Whether too little is expected of another trial."""
        ...

    def timed(self, outcome: Outcome) -> None:
        """Learn what a look took."""
        ...

    def guess(self, outcome: Outcome) -> Mapping[str, float] | None:
        """By objective, what was seen or is expected of a recipe that was rejected."""
        ...


class Straight:
    """Everybody is recovered in full."""

    top = 0
    gain: float | None = None
    looks = False

    def share(self, rung: int) -> float:
        return 1.0

    def next(self, rung: int) -> int:
        return 0

    def rejected(self, study: optuna.Study, settings: Params, number: int) -> tuple[str, str]:
        return "", ""

    def expected(self, study: optuna.Study, settings: Params) -> float | None:
        return None

    def promoted(self, study: optuna.Study, waiting: Mapping[str, Open]) -> str | None:
        return next(iter(waiting), None)  # left by a run that had rungs

    def last(self, study: optuna.Study, waiting: Mapping[str, Open]) -> tuple[str, str]:
        return next(iter(waiting)), ""

    def enough(self) -> bool:
        return False

    def timed(self, outcome: Outcome) -> None:
        """Nothing is looked at."""

    def guess(self, outcome: Outcome) -> Mapping[str, float] | None:
        return None
