"""Rows of about one length that wait for an answer."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Request:
    """One row that waits for an answer.

    It is to be answered by `due_s`, and is computed after that too, behind those that can be in time, up to
    `deadline_s`.
    """

    length: int  # tokens
    arrived_s: float
    deadline_s: float
    payload: Any = None
    due_s: float = math.inf  # at most the deadline
    failures: int = 0
    withdrawn: bool = False  # nobody waits for it any more
    tight: bool = False  # taken with little time to spare
    overdue: bool = False  # not answered by `due_s`, and due by its deadline since

    def __post_init__(self) -> None:
        self.due_s = min(self.due_s, self.deadline_s)
        if self.due_s <= self.arrived_s < self.deadline_s:  # a later stage of one that is overdue
            self.miss()

    def miss(self) -> None:
        """It cannot be answered by `due_s` any more."""
        self.due_s, self.overdue = self.deadline_s, True


class Bucket:
    """First due, first served, as they have come where they are due at once; those that are overdue come last."""

    def __init__(self) -> None:
        self._in_time: deque[Request] = deque()
        self._overdue: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._in_time) + len(self._overdue)

    def __iter__(self) -> Iterator[Request]:
        yield from self._in_time
        yield from self._overdue

    @property
    def in_time(self) -> int:
        """How many are not overdue."""
        return len(self._in_time)

    @property
    def first(self) -> Request:
        """The one to be served next. Raises IndexError where none waits."""
        return (self._in_time or self._overdue)[0]

    def last_due_s(self, by_s: float) -> float | None:
        """When the last of those is due that are due by `by_s` and not overdue; None where there is none."""
        if self._in_time and self._in_time[-1].due_s <= by_s:
            return self._in_time[-1].due_s
        count = bisect_right(self._in_time, by_s, key=_due_s)
        return self._in_time[count - 1].due_s if count else None

    def append(self, request: Request) -> None:
        if request.overdue:
            self._overdue.append(request)
        elif self._in_time and request.due_s < self._in_time[-1].due_s:
            self._in_time.insert(bisect_right(self._in_time, request.due_s, key=_due_s), request)
        else:
            self._in_time.append(request)

    def take(self, count: int) -> tuple[Request, ...]:
        """The first `count`, or as many as there are."""
        taken = min(count, len(self))
        return tuple((self._in_time or self._overdue).popleft() for _ in range(taken))

    def put_back(self, requests: Sequence[Request]) -> None:
        """Requests that were taken, in the same order before those that are due as they are."""
        for request in reversed(requests):
            if request.overdue:
                self._overdue.appendleft(request)
            else:
                self._in_time.insert(bisect_left(self._in_time, request.due_s, key=_due_s), request)

    def discard(self, request: Request) -> None:
        """Remove a request, if it waits here."""
        for part in (self._in_time, self._overdue):
            if request in part:
                part.remove(request)

    def missed(self, done_s: float) -> tuple[list[Request], list[Request]]:
        """(requests that end, requests that are overdue from now on), where none is answered before `done_s`."""
        gone = [request for request in self if request.deadline_s < done_s]
        late = [request for request in self._in_time if request.due_s < done_s <= request.deadline_s]
        if gone or late:
            self._in_time = deque(request for request in self._in_time if request.due_s >= done_s)
            self._overdue = deque((*(r for r in self._overdue if r.deadline_s >= done_s), *late))
        for request in late:
            request.miss()
        return gone, late


def _due_s(request: Request) -> float:
    return request.due_s
