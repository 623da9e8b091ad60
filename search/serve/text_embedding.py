"""Embeddings of few texts at once, or of many in slices, which leave room in the queue for other requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.serve.dispatcher import Deadline
from search.serve.fleet import Fleet, answered

#: Seconds that a client's texts may take in addition to their computing time.
EMBED_S = 5.0
#: Multiple of their computing time that many texts may take, because other requests are answered in between.
AMPLE = 4.0


class TextEmbedding:
    """Embeddings by the only variant of a fleet. Raises the errors of `search.serve.dispatcher`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def embed(self, texts: Sequence[str], deadline: Deadline) -> list[np.ndarray]:
        """An embedding (D,) of each text, all queued at once."""
        rows = [(text, self._fleet.windows.length(text)) for text in texts]
        return [one.answer for one in await answered(self._fleet, rows, deadline.left_s(), deadline.due_s())]

    async def in_slices(self, texts: Sequence[str], deadline: Deadline, size: int | None = None) -> list[np.ndarray]:
        """Embeddings (D,) of many texts, `size` (None: a fourth of the largest batch) at a time."""
        step = size or max(1, self._fleet.limits.max_batch // 4)
        vectors: list[np.ndarray] = []
        for start in range(0, len(texts), step):
            vectors += await self.embed(texts[start : start + step], deadline)
        return vectors

    async def of_a_client(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Embeddings (D,) in slices, with a time limit that grows with the texts."""
        [variant] = self._fleet.variants
        needed = sum(variant.seconds(1, self._fleet.windows.length(text)) for text in texts)
        return await self.in_slices(texts, Deadline(EMBED_S + AMPLE * needed))
