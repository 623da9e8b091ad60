"""The ratio of two models' times over several fresh pairs of processes.

Processes of one model differ by a per cent or so, which the interval of a single pair does not cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from objectives import paired_timing, stats
from objectives.bench import Batch
from objectives.estimate import Estimate
from objectives.paired_timing import Opener, Protocol, Read, Session

#: Pairs of processes, one after the other.
PAIRS = 3
#: Of each pair. As in MLPerf's single stream, a call starts when the last one has ended. 20 s of blocks in all pairs.
LONG = Protocol(block_s=0.2083, blocks=16, warm_s=1.0, attempts=2)


def lasting(seconds: float) -> Protocol:
    """`LONG` of each pair, shortened so that the blocks of all pairs take about `seconds`."""
    return LONG.lasting(seconds / PAIRS)


def timed(
    open_candidate: Opener, open_baseline: Opener, inputs: Sequence[Batch], protocol: Protocol, seed: int, read: Read
) -> list[Session]:
    """The timings of `PAIRS` fresh pairs: both sides of a pair are open together, and closed before the next pair.

    Args:
        inputs: batches, all of the same number of rows.
        protocol: of each pair.
        seed: of the order of the blocks.
        read: reads the machine's counters.

    Raises:
        RemoteDied, RemoteTimeout: a process ended, or was ended for not answering.
    """
    generator = np.random.default_rng(seed)
    sessions = []
    for _ in range(PAIRS):
        with ExitStack() as opened:
            candidate, baseline = (opened.enter_context(side()) for side in (open_candidate, open_baseline))
            sessions.append(paired_timing.session(candidate, baseline, inputs, protocol, generator, read))
    return sessions


def ratio(sessions: Sequence[Session]) -> Estimate:
    """The baseline's time over the candidate's: the geometric mean over the pairs, with its interval over them."""
    return stats.over_processes(np.array([session.ratio.value for session in sessions]))


def median_ms(sessions: Sequence[Session]) -> Estimate:
    """The candidate's median time of a call over the calls of all pairs, with its interval over the pairs."""
    calls = [np.concatenate(session.candidate) for session in sessions]
    [estimate] = stats.over_groups(calls, lambda times: np.percentile(times, [50]))
    return estimate
