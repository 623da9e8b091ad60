"""What waits in the buckets of a queue, as the input of a decision."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from search.serve.bucket import Bucket
from search.serve.policy import Backlog, Sooner


def backlog_of(
    buckets: Mapping[int, Bucket], length: int, now_s: float, max_batch: int, slo_s: float, workers: int
) -> Backlog:
    """The backlog for a decision on the bucket of `length` tokens; 0: on no bucket.

    Args:
        buckets: by the length to which their rows are padded.
        slo_s: the objective; requests that are due within one of each other are planned together.
    """
    urgent: list[float] = []
    for request in islice(buckets.get(length, ()), max_batch):
        left = request.due_s - now_s
        urgent.append(min(left, urgent[-1]) if urgent else left)
    filled = {length: bucket for length, bucket in buckets.items() if bucket}
    last = [bucket.last for bucket in filled.values()]
    in_time = [request for request in last if not request.overdue]
    last_s = max((request.due_s for request in in_time or last), default=now_s)
    return Backlog(
        length=length,
        urgent_s=tuple(urgent),
        last_s=last_s - now_s,
        waiting=tuple((length, len(bucket)) for length, bucket in filled.items()),
        max_batch=max_batch,
        slo_s=slo_s,
        workers=workers,
        sooner=_sooner(filled, last_s, slo_s, now_s),
    )


def _sooner(filled: Mapping[int, Bucket], last_s: float, slo_s: float, now_s: float) -> Sooner | None:
    """What is due within an objective of the most urgent request, where others have longer, up to `last_s`."""
    until_s = min((bucket.first.due_s for bucket in filled.values()), default=last_s) + slo_s
    if last_s <= until_s:
        return None
    due = {length: rows for length, bucket in filled.items() if (rows := bucket.due_by(until_s))}
    if not due:  # all are overdue
        return None
    left_s = max(rows[-1].due_s for rows in due.values()) - now_s
    return Sooner(left_s, tuple((length, len(rows)) for length, rows in due.items()))
