"""The service behind the API: passages are searched, a fleet answers, and the answer is stored before it is sent."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.serve.answers import Answer, NothingKnownError, Span, answer_bytes, bytes_of_vectors
from search.serve.database.archive import Archive, NewAnswer, NewPassage
from search.serve.database.tables import Passage
from search.serve.database.writer import WriterFullError
from search.serve.dispatcher import GRACE, Deadline
from search.serve.document_store import store_document
from search.serve.fleet import EMBEDDING_TASK, Fleet, answered
from search.serve.objective import objective_s
from search.serve.passage_index import Index
from search.serve.reserve import Reserve, handing_over_s
from search.serve.sentences import sentences
from search.serve.text_embedding import TextEmbedding
from search.serve.ttl_cache import TtlCache

log = logging.getLogger(__name__)

#: The number of nearest passages in which an answer is sought.
PASSAGES = 3
#: Characters up to which a text is split into sentences in the event loop; a longer one is split in a thread.
SHORT = 4_000
#: Most sentences of a context where the nearest sentence is the answer.
MOST_SENTENCES = 500
#: Most bytes of each cache.
CACHED = 64_000_000
#: Seconds in which an answer must be stored.
STORE_S = 10.0
#: Task names of fleets.
ANSWERING, CLASSIFYING = "question-answering", "classification"


class Service:
    """Answers questions, and stores the passages that they are answered from.

    Args:
        model: digest of the model that embeds passages.
        fleets: by task; "sentence-similarity" embeds questions, and is always there.
        cached_answers: most entries, and seconds to live, of the cache of answers.
    """

    def __init__(
        self,
        archive: Archive,
        index: Index,
        model: str,
        fleets: Mapping[str, Fleet],
        cached_answers: tuple[int, float] = (10_000, 600.0),
    ) -> None:
        self.archive, self.index, self.fleets = archive, index, fleets
        self.embedding = TextEmbedding(fleets[EMBEDDING_TASK])
        self._model = model
        self.store_s = STORE_S
        self._reserve = Reserve()
        #: By question, digest of the context and variant.
        self.answers: TtlCache[tuple[str, str | None, str], Span] = TtlCache(
            *cached_answers, weight=answer_bytes, budget=CACHED
        )
        #: Rises with every change of the passages; answers from earlier passages are not cached.
        self._generation = 0
        #: Held while database and index change, so that no embedding of a removed passage is added late.
        self._changing = asyncio.Lock()
        #: Held while passages are embedded: a second task would embed the same ones again.
        self._embedding = asyncio.Lock()
        #: Digests of passages that the model cannot embed. A database may give a number again.
        self._left_out: set[str] = set()
        #: Embeddings of a passage's sentences (S, D).
        self.sentence_vectors: TtlCache[str, np.ndarray] = TtlCache(5_000, weight=bytes_of_vectors, budget=CACHED)

    async def answer(
        self,
        question: str,
        context: str | None,
        request: str,
        key_id: int | None = None,
        within_s: float | None = None,
    ) -> Answer:
        """The best answer to a question: of `context`, or of the passages nearest to the question.

        Raises:
            NothingKnownError: there is no context, and there are no passages.
            RefusedError, ExpiredError, FailedError: see `search.serve.dispatcher`.
            WriterFullError: the database does not store answers as fast as they come.
        """
        began = time.perf_counter()
        milliseconds: dict[str, float] = {}
        fleet = self.fleets.get(ANSWERING, self.fleets[EMBEDDING_TASK])
        digest = None if context is None else hashlib.sha256(context.encode("utf-8", "surrogatepass")).hexdigest()
        key = (question, digest, fleet.name(fleet.serving))
        span = self.answers.get(key)
        cached, generation = span is not None, self._generation
        if span is None:
            deadline = self._deadline(context, within_s)
            if ANSWERING in self.fleets:
                span = await self._extracted(question, context, deadline, milliseconds)
            else:
                span = await self._nearest_sentence(question, context, deadline, milliseconds)
        storing = time.perf_counter()
        new = NewAnswer(
            request, question, context, span.answer, span.score, span.start, span.end, span.passage, span.variant,
            {**milliseconds, "total": (storing - began) * 1e3}, key_id,
        )  # fmt: skip
        stored = self.archive.answered(new)
        if not cached and generation == self._generation:  # while it is stored
            self.answers.put((question, digest, span.variant), span)
        try:
            async with asyncio.timeout(self.store_s):
                number = await asyncio.wrap_future(stored)
        except TimeoutError:
            raise WriterFullError(f"the database has not stored the answer in {self.store_s:g} s") from None
        ended = time.perf_counter()
        self._reserve.observe(ended - storing + handing_over_s(milliseconds))
        milliseconds |= {"store": (ended - storing) * 1e3, "total": (ended - began) * 1e3}
        rounded = {name: round(value, 3) for name, value in milliseconds.items()}
        return Answer(**vars(span), id=number, cached=cached, milliseconds=rounded)

    def _deadline(self, context: str | None, within_s: float | None) -> Deadline:
        """The time limit of a request; one without a limit of its own may take `GRACE` times what it is due in."""
        if within_s is not None:
            return Deadline(self._reserve.left_s(within_s))
        due = self._reserve.left_s(objective_s(self.fleets.get(ANSWERING), self.fleets[EMBEDDING_TASK], context))
        return Deadline(GRACE * due, due)

    async def classify(
        self, texts: Sequence[str | Mapping[str, str]], within_s: float | None = None
    ) -> list[dict[str, Any]]:
        """The pipeline's label and score of each text or pair, and the variant. Raises KeyError without a fleet."""
        fleet = self.fleets[CLASSIFYING]
        parts = [(text,) if isinstance(text, str) else tuple(text.values()) for text in texts]
        rows = [(text, fleet.windows.length(*part)) for text, part in zip(texts, parts, strict=True)]
        return [{**one.answer, "variant": fleet.name(one.number)} for one in await answered(fleet, rows, within_s)]

    async def add_passages(self, passages: Sequence[NewPassage]) -> list[int]:
        """Store passages and add them to the index; returns their numbers, in order."""
        numbers = await store_document(self.archive, passages)
        await self.embed_missing()
        return numbers

    async def remove_passage(self, number: int) -> bool:
        """Remove a passage from database and index; returns whether it was there."""
        async with self._changing:
            removed = await asyncio.wrap_future(self.archive.remove_passage(number))
            await asyncio.to_thread(self.index.remove, number)
        if removed:
            self._changed()
        return removed

    def _changed(self) -> None:
        """Drop cached answers, which may depend on passages that have changed."""
        self._generation += 1
        self.answers.clear()

    async def embed_missing(self, at_once: int = 64, within_s: float = 600.0) -> int:
        """Embed the passages without an embedding by this model; returns how many were embedded."""
        async with self._embedding:
            return await self._embed_missing(at_once, within_s)

    async def _embed_missing(self, at_once: int, within_s: float) -> int:
        count = 0
        while missing := await asyncio.to_thread(self._missing, at_once):
            rows = await self._embeddings(missing, Deadline(within_s))
            digests = {passage.id: passage.digest for passage in missing}
            async with self._changing:
                stored = await asyncio.wrap_future(self.archive.embed(self._model, rows, digests))
                await asyncio.to_thread(self.index.add, [(number, rows[number]) for number in stored])
            self._changed()
            count += len(stored)
        return count

    def _missing(self, at_once: int) -> list[Passage]:
        """Passages without an embedding, but for those that have none."""
        passages = self.archive.not_embedded(self._model, at_once + len(self._left_out))
        return [passage for passage in passages if passage.digest not in self._left_out][:at_once]

    async def _embeddings(self, passages: Sequence[Passage], deadline: Deadline) -> dict[int, np.ndarray]:
        """Embeddings (D,) by the passage's number; a passage that the model does not take is left out, and named."""
        try:
            vectors = await self.embedding.in_slices([passage.text for passage in passages], deadline)
            pairs = zip(passages, vectors, strict=True)
            return {passage.id: self.index.normal(np.asarray(vector)) for passage, vector in pairs}
        except ValueError as error:
            if len(passages) == 1:
                number, reason = passages[0].id, type(error).__name__  # its message may have the text
                log.warning("passage %d cannot be embedded (%s), so it is not found", number, reason)
                self._left_out.add(passages[0].digest)
                return {}
        middle = len(passages) // 2
        first = await self._embeddings(passages[:middle], deadline)
        return first | await self._embeddings(passages[middle:], deadline)

    async def _passages_for(
        self, question: str, context: str | None, deadline: Deadline, milliseconds: dict[str, float]
    ) -> tuple[list[tuple[int | None, str | None, str]], np.ndarray | None]:
        """((passage, source, text) to answer from, nearest first; the question's embedding where it was needed)."""
        if context is not None and ANSWERING in self.fleets:
            return [(None, None, context)], None
        began = time.perf_counter()
        [vector] = await self.embedding.embed([question], deadline)
        embedded = time.perf_counter()
        milliseconds["embed"] = (embedded - began) * 1e3
        if context is not None:
            return [(None, None, context)], vector
        rows = await asyncio.to_thread(self._nearest, vector)
        milliseconds["retrieve"] = (time.perf_counter() - embedded) * 1e3
        texts: list[tuple[int | None, str | None, str]] = [(row.id, row.source, row.text) for row in rows if row]
        if not texts:
            raise NothingKnownError("there is no passage to answer from; add one, or give a context")
        return texts, vector

    def _nearest(self, vector: np.ndarray) -> list[Passage | None]:
        """The passages nearest to a question's embedding; None for one that was removed meanwhile."""
        return [self.archive.passage(hit.passage) for hit in self.index.search(vector, PASSAGES)]

    async def _extracted(
        self, question: str, context: str | None, deadline: Deadline, milliseconds: dict[str, float]
    ) -> Span:
        """The best span of the question-answering fleet over the passages."""
        texts, _ = await self._passages_for(question, context, deadline, milliseconds)
        fleet = self.fleets[ANSWERING]
        began = time.perf_counter()
        count = fleet.windows.length
        rows = [({"question": question, "context": text}, count(question, text)) for _, _, text in texts]
        replies = await answered(fleet, rows, deadline.left_s(), deadline.due_s())
        milliseconds |= {
            "answer": (time.perf_counter() - began) * 1e3,
            "wait": max(one.waited_s for one in replies) * 1e3,
            "model": max(one.computed_s for one in replies) * 1e3,
        }
        best = max(range(len(texts)), key=lambda i: (bool(replies[i].answer["answer"]), replies[i].answer["score"]))
        (number, source, text), reply = texts[best], replies[best].answer
        return Span(
            reply["answer"], float(reply["score"]), int(reply["start"]), int(reply["end"]), number, source, text,
            fleet.name(replies[best].number),
        )  # fmt: skip

    async def _nearest_sentence(
        self, question: str, context: str | None, deadline: Deadline, milliseconds: dict[str, float]
    ) -> Span:
        """The sentence of the passages whose embedding is nearest to the question's."""
        texts, vector = await self._passages_for(question, context, deadline, milliseconds)
        assert vector is not None
        began = time.perf_counter()
        best: Span | None = None
        fleet = self.fleets[EMBEDDING_TASK]
        for number, source, text in texts:
            # A whole context takes milliseconds, which the event loop does not have.
            spans = sentences(text) if len(text) <= SHORT else await asyncio.to_thread(sentences, text)
            vectors = await self._of_sentences(number, text, spans, deadline)
            if not spans:
                continue
            scores = vectors @ vector
            at = int(scores.argmax())
            if best is None or scores[at] > best.score:
                start, end = spans[at]
                best = Span(
                    text[start:end], float(scores[at]), start, end, number, source, text, fleet.name(fleet.serving)
                )
        milliseconds["answer"] = (time.perf_counter() - began) * 1e3
        if best is None:
            raise NothingKnownError("the context has no sentence")
        return best

    async def _of_sentences(
        self, passage: int | None, text: str, spans: Sequence[tuple[int, int]], deadline: Deadline
    ) -> np.ndarray:
        """(S, D) of the sentences of a text. Those of a passage are kept; another context hardly comes again."""
        vectors = None if passage is None else self.sentence_vectors.get(text)
        if vectors is None:
            if len(spans) > MOST_SENTENCES:
                raise ValueError(f"context: must have at most {MOST_SENTENCES} sentences, got {len(spans)}")
            size = self.fleets[EMBEDDING_TASK].limits.max_batch
            rows = await self.embedding.in_slices([text[start:end] for start, end in spans], deadline, size)
            vectors = np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)
            if passage is not None:
                self.sentence_vectors.put(text, vectors)
        return vectors

    def close(self) -> None:
        """Answer what waits, then end the fleets."""
        for fleet in self.fleets.values():
            fleet.close()
