"""What waits in the buckets of a queue, as the input of a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from search.serve.bucket import Bucket
from search.serve.policy import Backlog


def backlog_of(
    buckets: Mapping[int, Bucket], length: int, now_s: float, max_batch: int, slo_s: float, workers: int
) -> Backlog:
    """The backlog for a decision on the bucket of `length` tokens; 0: on no bucket.

    Args:
        buckets: those with requests, by the length to which their rows are padded.
        slo_s: the objective; the plan has the time of those that are due within one of the most urgent request.
    """
    urgent: list[float] = []
    for request in islice(buckets.get(length, ()), max_batch):
        left = request.due_s - now_s
        urgent.append(min(left, urgent[-1]) if urgent else left)
    return Backlog(
        length=length,
        urgent_s=tuple(urgent),
        last_s=_last_due_s(list(buckets.values()), slo_s, now_s) - now_s,
        waiting=tuple((length, len(bucket)) for length, bucket in buckets.items()),
        max_batch=max_batch,
        slo_s=slo_s,
        workers=workers,
    )


def _last_due_s(filled: Sequence[Bucket], slo_s: float, now_s: float) -> float:
    """When the last of the requests is due that are due within `slo_s` of the most urgent one.

    Those that are overdue count only where no others wait.
    """
    in_time = [first.due_s for bucket in filled if not (first := bucket.first).overdue]
    if not in_time:
        return max((request.due_s for bucket in filled for request in bucket), default=now_s)
    by_s = min(in_time) + slo_s
    return max(due_s for bucket in filled if (due_s := bucket.last_due_s(by_s)) is not None)
