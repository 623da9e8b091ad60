"""The search itself: propose, evaluate, tell, observe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from search import run_log
from search.errors import disk_is_full
from search.execute.executor import Evaluate, Job
from search.failures import is_ours
from search.front.front import Front
from search.front.outcome import Outcome

log = logging.getLogger(__name__)


class Proposals(Protocol):
    def __iter__(self) -> Iterator[Job]: ...

    def tell(self, outcome: Outcome) -> Outcome: ...


Observer = Callable[[Outcome, Front], None]


def explore(proposer: Proposals, evaluate: Evaluate, front: Front, observers: Iterable[Observer]) -> Front:
    """Run every job; returns the last front. The proposer gets every outcome at once, so an interrupt loses none.

    An exception of an observer is logged and the search goes on, unless the disk is full or the mistake is in our code.
    """
    observers = tuple(observers)
    for job in proposer:
        for outcome in evaluate(job):
            numbered = proposer.tell(outcome)
            front = front.add(numbered)
            for observe in observers:
                _call(observe, numbered, front)
    return front


def _call(observe: Observer, outcome: Outcome, front: Front) -> None:
    try:
        observe(outcome, front)
    except Exception as error:
        if disk_is_full(error) or is_ours(error):
            raise
        with run_log.about(f"trial {outcome.number}"):
            log.exception("an observer failed, and the search goes on")
