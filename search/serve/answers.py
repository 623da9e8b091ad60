"""An answer of the service: before it is stored, and as it is sent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


class NothingKnownError(Exception):
    """There is no passage to answer from."""


@dataclass(frozen=True)
class Answer:
    """An answer as it is sent."""

    id: int
    text: str
    score: float
    start: int  # in the passage or the given context, in characters
    end: int
    context: str
    passage: int | None
    source: str | None
    variant: str
    cached: bool
    milliseconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """An answer before it is stored."""

    text: str
    score: float
    start: int
    end: int
    passage: int | None
    source: str | None
    context: str
    variant: str


def bytes_of(key: tuple[str, str | None, str], span: Span) -> int:
    """The bytes of a cached answer with its key."""
    return sum(map(sys.getsizeof, (*key, span.text, span.context, span.source, span)))


def bytes_of_vectors(text: str, vectors: np.ndarray) -> int:
    """The bytes of a cached text with the embeddings of its sentences."""
    return sys.getsizeof(text) + vectors.nbytes
