"""What tests of worker processes share: a fleet over them, and waiting for what becomes of a process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from services import LIMITS, variant

from search.serve.batching import Limits
from search.serve.fleet import Fleet
from search.serve.service import ANSWERING
from search.serve.worker import Workers


def answering(workers: Workers, limits: Limits = LIMITS) -> Fleet:
    variants = [variant(number, 1.0 + number, 0.8 + 0.01 * number) for number in workers.pids]
    return Fleet(ANSWERING, "study-qa", variants, workers.answers, limits, "f1", workers=workers)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)
