"""Embeddings of few texts at once, or of many in slices, so that others find room in the queue between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.serve.dispatcher import Deadline
from search.serve.fleet import Fleet, answered

#: Seconds for a client's texts, besides what they take themselves; nobody waits for an answer meanwhile.
EMBED_S = 5.0
#: How often the time that many texts take is allowed for them, since others are answered between.
AMPLE = 4.0


class TextEmbedding:
    """Embeddings by the one variant of a fleet. What it raises is of `search.serve.dispatcher`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def embed(self, texts: Sequence[str], within_s: float) -> list[np.ndarray]:
        """An embedding (D,) of each text, all queued at once."""
        rows = [(text, self._fleet.windows.length(text)) for text in texts]
        return [one.answer for one in await answered(self._fleet, rows, within_s)]

    async def in_slices(self, texts: Sequence[str], deadline: Deadline, size: int | None = None) -> list[np.ndarray]:
        """Embeddings of many texts, `size` (default: a fourth of the largest batch) at a time."""
        step = size or max(1, self._fleet.limits.max_batch // 4)
        vectors: list[np.ndarray] = []
        for start in range(0, len(texts), step):
            vectors += await self.embed(texts[start : start + step], deadline.left_s())
        return vectors

    async def of_a_client(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Embeddings in slices, with more time for more texts."""
        [variant] = self._fleet.variants
        needed = sum(variant.seconds(1, self._fleet.windows.length(text)) for text in texts)
        return await self.in_slices(texts, Deadline(EMBED_S + AMPLE * needed))
