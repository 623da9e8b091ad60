"""Completions by a fleet of language models: pieces of text as they come, and the whole stored in the history.

completer = Completer(fleet, archive)
async for part in completer.parts(Asked("Once upon", max_tokens=50, temperature=0.8)):
    part.text          # the last one is an Ending: why it ended, tokens, the number in the history
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from search.serve.database.archive import Archive, NewAnswer
from search.serve.database.writer import WriterFullError
from search.serve.dispatcher import Answered
from search.serve.fleet import CAUSAL, Fleet, tokens_of
from search.serve.generation import Generation
from search.serve.generator import Piece
from search.serve.prompts import Chat

log = logging.getLogger(__name__)

#: Seconds in which a completion that says nothing of it is to end.
COMPLETE_S = 60.0
#: Tokens of a prompt that are read in the time of one that is written, about.
READ = 8
#: Told of each completion: seconds to its first token (None: there is none), tokens, and why it ended.
Observe = Callable[[float | None, int, str], None]


@dataclass(frozen=True)
class Asked:
    """What is to be completed, how, and for whom."""

    prompt: str | Chat
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    request: str = ""
    key_id: int | None = None
    within_s: float = COMPLETE_S

    @property
    def text(self) -> str:
        """As the history shows it."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.prompt)

    @property
    def length(self) -> int:
        """About what it takes, in tokens that are written."""
        return self.max_tokens + tokens_of(self.text) // READ

    @property
    def options(self) -> dict[str, Any]:
        """As `Generator.pieces` takes them."""
        return {
            "max_new_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop,
        }


@dataclass(frozen=True)
class Part:
    """A piece of a completion."""

    text: str
    variant: str


@dataclass(frozen=True)
class Ending(Part):
    """The end of a completion that is stored; `text` is all of it."""

    id: int
    finish: str
    prompt_tokens: int
    tokens: int
    milliseconds: dict[str, float]


@dataclass
class _Record:
    """What has come of a completion so far."""

    asked: Asked
    began: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    texts: list[str] = field(default_factory=list)
    last: Piece | None = None

    def add(self, piece: Piece) -> None:
        if self.first_s is None:
            self.first_s = time.perf_counter() - self.began
        self.texts.append(piece.text)
        self.last = piece

    @property
    def tokens(self) -> int:
        return 0 if self.last is None else self.last.tokens

    def stored(self, variant: str, milliseconds: dict[str, float]) -> NewAnswer:
        """As the history keeps it: a completion has no score and no place in a passage."""
        asked = self.asked
        return NewAnswer(
            asked.request, asked.text, None, "".join(self.texts), 0.0, -1, -1, None, variant, milliseconds,
            asked.key_id, CAUSAL,
        )  # fmt: skip


class Completer:
    """Completes by the fleet of a causal front."""

    def __init__(
        self, fleet: Fleet, archive: Archive, observe: Observe = lambda *_: None, store_s: float = 10.0
    ) -> None:
        self.fleet, self._archive, self._observe, self._store_s = fleet, archive, observe, store_s

    async def parts(self, asked: Asked) -> AsyncGenerator[Part, None]:
        """The completion in pieces, and its ending, which is stored before it is given.

        Who stops reading (`aclose`) stops the model within one token; what there is by then is stored.

        Raises:
            ValueError: a prompt that the model does not take.
            RefusedError, ExpiredError, FailedError: `search.serve.dispatcher`.
            WriterFullError: completions cannot be stored as fast as they come.
        """
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece | None]()

        def give(piece: Piece | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        generation = Generation(asked.prompt, asked.options, time.monotonic() + asked.within_s, give)
        record, ended = _Record(asked), "cancelled"
        future = self.fleet.dispatcher.submit(generation, asked.length, asked.within_s)
        future.add_done_callback(lambda _: give(None))
        try:
            while (piece := await pieces.get()) is not None:
                record.add(piece)
                if piece.text:
                    yield Part(piece.text, self.fleet.name(generation.number))
            ended = "failed"
            ending = await self._stored(record, future.result())
            ended = ending.finish
            yield ending
        finally:
            generation.gone.set()
            future.cancel()
            self._observe(record.first_s, record.tokens, ended)
            if ended in ("cancelled", "failed") and record.tokens:
                self._store_part(record, generation.number)

    async def _stored(self, record: _Record, reply: Answered) -> Ending:
        storing = time.perf_counter()
        milliseconds = {
            "wait": reply.waited_s * 1e3,
            "first_token": (record.first_s or 0.0) * 1e3,
            "model": reply.computed_s * 1e3,
            "total": (storing - record.began) * 1e3,
        }
        milliseconds = {name: round(value, 3) for name, value in milliseconds.items()}
        variant = self.fleet.name(reply.number)
        writing = asyncio.wrap_future(self._archive.answered(record.stored(variant, milliseconds)))
        try:
            number = await asyncio.wait_for(writing, self._store_s)
        except TimeoutError:
            raise WriterFullError(f"the database has not stored the completion in {self._store_s:g} s") from None
        last = record.last
        assert last is not None and last.finish is not None
        return Ending(
            "".join(record.texts), variant, number, last.finish, last.prompt_tokens, last.tokens, milliseconds
        )

    def _store_part(self, record: _Record, number: int) -> None:
        """Keep what was sent of a completion that did not come to its end; nobody waits for that."""
        total = round((time.perf_counter() - record.began) * 1e3, 3)
        try:
            self._archive.answered(record.stored(self.fleet.name(number), {"total": total}))
        except WriterFullError:
            log.warning("request %s: a completion that was broken off is not stored", record.asked.request)
