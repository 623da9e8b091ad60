"""Storing the passages of a document beside answers, which one thread writes all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from search.serve.database.archive import Archive, NewPassage

#: Passages of one write: about a millisecond, for which an answer waits.
PASSAGES_AT_ONCE = 32


async def store_document(archive: Archive, passages: Sequence[NewPassage]) -> list[int]:
    """Store passages in several writes, between which answers are stored; their numbers, in order.

    A document that breaks off is stored in part. Sent again it is completed, since a passage that exists is kept.
    """
    numbers: list[int] = []
    for start in range(0, len(passages), PASSAGES_AT_ONCE):
        part = archive.add_passages(passages[start : start + PASSAGES_AT_ONCE])
        stored: list[int] = await asyncio.wrap_future(part)
        numbers += stored
    return numbers
