"""An answer of the service: before it is stored, and as it is sent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


class NothingKnownError(Exception):
    """The store has no passage to answer from."""


@dataclass(frozen=True)
class Span:
    """An answer before it is stored; `start` and `end` are characters of `context`, which is the passage it is from."""

    answer: str
    score: float
    start: int
    end: int
    passage: int | None
    source: str | None
    context: str
    variant: str


@dataclass(frozen=True)
class Answer(Span):
    """An answer as it is sent; `start` and `end` are characters of `context`, which is the passage it is from."""

    id: int
    cached: bool
    milliseconds: Mapping[str, float]


def answer_bytes(key: tuple[str, str | None, str], span: Span) -> int:
    """The bytes of a cached answer with its key."""
    return sum(map(sys.getsizeof, (*key, span.answer, span.context, span.source, span)))


def bytes_of_vectors(text: str, vectors: np.ndarray) -> int:
    """The bytes of a cached text with the embeddings of its sentences."""
    return sys.getsizeof(text) + vectors.nbytes
