"""The fleet that embeds without any study: the packaged MiniLM, timed here."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from search.serve.batch_times import timed_variant
from search.serve.batching import Limits
from search.serve.fleet import EMBEDDING_TASK, Fleet, embedding_limits
from search.serve.model_process import EmbedderProcess
from search.serve.packaged_embedder import MAX_LENGTH, PackagedEmbedder
from search.serve.windows import WindowSettings, approximate_tokens
from search.serve.worker import Workers

#: The name of the packaged embedder.
PACKAGED = "all-MiniLM-L6-v2"
#: A question of typical length, with which a model without a record is timed.
USUAL = "Who wrote the first program for a machine that computes?"


def embedding_fleet(embed: PackagedEmbedder, limits: Limits) -> Fleet:
    """The packaged embedder behind a queue."""

    def answer(rows: Sequence[Any]) -> Sequence[Any]:
        return list(embed(rows))

    variant = timed_variant(answer, USUAL, approximate_tokens(USUAL))
    limits = embedding_limits(limits, variant)
    return Fleet(EMBEDDING_TASK, PACKAGED, (variant,), {0: answer}, limits, windows=WindowSettings(MAX_LENGTH))


def embedding_processes(limits: Limits) -> tuple[Fleet, str, int]:
    """The packaged embedder in a process of its own, with its digest and the size of an embedding."""
    with contextlib.ExitStack() as failing:
        workers = Workers({0: EmbedderProcess})
        failing.callback(workers.close)
        digest, size = workers[0].warm("about")
        variant = timed_variant(partial(workers[0].warm, "answer"), USUAL, approximate_tokens(USUAL))
        limits = embedding_limits(limits, variant)
        windows = WindowSettings(MAX_LENGTH)
        fleet = Fleet(EMBEDDING_TASK, PACKAGED, (variant,), workers.answers, limits, windows=windows, workers=workers)
        failing.pop_all()
    return fleet, digest, size
