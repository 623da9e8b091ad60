"""A completion in a worker: pieces are handed to the caller until it has gone or the time is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from search.errors import one_line
from search.serve.batching import Limits
from search.serve.dispatcher import BrokenOffError, ExpiredError
from search.serve.generator import Generator, Piece
from search.serve.prompts import Chat
from search.serve.variants import Variant

#: Prompts, which share no beginning, and the number of tokens by which the time per token is measured.
PROMPTS = tuple(f"{first} history of the town begins with a bridge over" for first in ("The", "Its", "Our"))
TIMED_TOKENS = 17
#: Limits of the queue of completions.
LIMITS = Limits(slo_s=60.0, max_batch=1, max_queue=64, lengths=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192))


@dataclass(eq=False)
class GenerationRequest:
    """A completion to compute: prompt, options, deadline, and the function `give` that takes its pieces."""

    prompt: str | Chat
    options: Mapping[str, Any]
    ends_s: float  # by time.monotonic
    give: Callable[[Piece], None]
    gone: threading.Event = field(default_factory=threading.Event)
    number: int = 0  # the variant that completes
    begun: bool = False

    def stopped(self) -> bool:
        """Whether the caller has gone or the time is over."""
        return self.gone.is_set() or time.monotonic() > self.ends_s


def generating(model: Any, number: int) -> Callable[[Sequence[GenerationRequest]], Sequence[Any]]:
    """The function that computes generations as rows of a fleet; the answer to a row is its last piece."""

    def answer(rows: Sequence[GenerationRequest]) -> Sequence[Any]:
        return [_generated(model, number, row) for row in rows]

    return answer


def _generated(model: Any, number: int, row: GenerationRequest) -> Piece | Exception | None:
    row.number = number
    last = None
    try:
        with closing(model.pieces(row.prompt, **row.options)) as pieces:
            for last in pieces:
                if row.stopped():
                    return ExpiredError("the completion was not done in its time")
                row.begun = True
                row.give(last)
    except Exception as error:
        # Text that was sent cannot be taken back, so that no other variant can begin anew.
        if row.begun:
            raise BrokenOffError(one_line(error)) from error
        raise
    return last


def timed(variant: Variant, model: Generator) -> Variant:
    """The variant with times measured on this machine; the length of a row is its number of generated tokens."""
    firsts, others = [], []
    for prompt in PROMPTS:
        times, tokens, began = list[float](), 0, time.perf_counter()
        for piece in model.pieces(prompt, max_new_tokens=TIMED_TOKENS):
            if piece.tokens > tokens or not times:  # held-back text comes without a step of the model
                times.append(time.perf_counter() - began)
            tokens = piece.tokens
        firsts.append(times[0])
        others.append((times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0])
    first, other = float(np.median(firsts)), float(np.median(others))
    return replace(variant, points=((1, first), (TIMED_TOKENS, first + (TIMED_TOKENS - 1) * other)), length=1)
