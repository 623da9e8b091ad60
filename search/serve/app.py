"""The API of the service, its page and its health; `search.serve.server` starts it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from search.serve import completion_api, problems
from search.serve.answer_route import PATH, DirectAnswers
from search.serve.answers import Answer
from search.serve.completer import Completer
from search.serve.connection import while_connected
from search.serve.database.archive import NewPassage, clean
from search.serve.fleet import CAUSAL_TASK, EMBEDDING_TASK, Fleet
from search.serve.fleet_state import fleet_state
from search.serve.guard import FILES, Guard, Guarding
from search.serve.long_reply import long_reply
from search.serve.metrics import Metrics
from search.serve.schemas import (
    DOCUMENT,
    AddPassages,
    Ask,
    Classify,
    Embed,
    Opinion,
    embedding_list,
)
from search.serve.sentences import passages
from search.serve.service import ANSWERING, CLASSIFYING, Service

PAGE_FOLDER = Path(__file__).with_name("page")
#: Answers whose times the live panel shows.
RECENT = 500
#: Passages that one document may have.
MOST_PASSAGES = 2_000
#: The number of a row; older ones are asked for. Databases have 32 bits for it.
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


class RecentTimes:
    """The times of the newest answers, for the page."""

    def __init__(self) -> None:
        self._answers: deque[tuple[float, float, str]] = deque(maxlen=RECENT)  # (when, ms, variant)

    def add(self, milliseconds: float, variant: str) -> None:
        """Add an answer that is given now."""
        self._answers.append((time.monotonic(), milliseconds, variant))

    def shown(self, window_s: float = 30.0) -> dict[str, Any]:
        """Answers per second and percentiles of their times (ms) over the last `window_s` seconds."""
        now = time.monotonic()
        recent = sorted(ms for when, ms, _ in self._answers if now - when <= window_s)
        # Under load the kept answers cover less than the window.
        full = len(self._answers) == RECENT
        covered_s = max(min(window_s, now - self._answers[0][0]), 1e-3) if full else window_s
        if not recent:
            return {"per_s": 0.0, "p50_ms": None, "p99_ms": None, "answers": 0}
        return {
            "per_s": round(len(recent) / covered_s, 2),
            "p50_ms": recent[len(recent) // 2],
            "p99_ms": recent[min(len(recent) - 1, int(0.99 * len(recent)))],
            "answers": len(recent),
        }


def create_app(service: Service, guarding: Guarding, ready: asyncio.Event | None = None) -> ASGIApp:
    """The application.

    Args:
        guarding: limits that requests must keep.
        ready: set once the passages are embedded; None: they are embedded already.
    """
    app = FastAPI(
        title="Transformer question answering",
        version="1",
        redoc_url=None,
        docs_url=None,
        responses=problems.PROBLEM_RESPONSES,
    )
    metrics, live = Metrics(service), RecentTimes()
    problems.install_problems(app)
    direct = _answers(app, service, live)
    _models(app, service)
    causal = service.fleets.get(CAUSAL_TASK)
    completer = None if causal is None else Completer(causal, service.archive, metrics.completed)
    completion_api.install_completions(app, completer, live.add)
    _passages(app, service)
    _health(app, service, metrics, live, ready)
    _page(app)
    return Guard(direct, guarding, service.archive.key_id, metrics.observe)


def _answers(app: FastAPI, service: Service, live: RecentTimes) -> DirectAnswers:
    """Add the routes of answers; returns the application around all routes that answers most questions itself."""

    @app.post(PATH)
    async def answer(body: Ask, request: Request) -> Answer:
        """Answer a question from its context, or from the stored passages."""
        within = None if body.within_ms is None else body.within_ms / 1e3
        state = request.state
        with while_connected(request):
            reply = await service.answer(body.question, body.context, state.request, state.key_id, within)
        live.add(reply.milliseconds["total"], reply.variant)
        return reply

    @app.get("/v1/history", response_model=dict[str, Any])
    async def history(before: Before = None, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Response:
        """The newest answers with their questions, newest first."""
        answers = await asyncio.to_thread(service.archive.history, before, limit)
        return await long_reply({"answers": answers}, "answers")

    @app.post("/v1/answers/{number}/feedback", status_code=204)
    async def feedback(number: int, body: Opinion) -> None:
        """Say whether an answer helped."""
        _in_range(number)
        if not await asyncio.wrap_future(service.archive.give_feedback(number, body.helpful, body.comment)):
            raise HTTPException(404, f"there is no answer {number}")

    return DirectAnswers(app, answer)


def _models(app: FastAPI, service: Service) -> None:
    @app.post("/v1/classify")
    async def classify(body: Classify, request: Request) -> dict[str, Any]:
        """The label of each text, or of each pair of texts."""
        if CLASSIFYING not in service.fleets:
            raise HTTPException(404, "no classification study is served; name one when the service is started")
        rows = [text if isinstance(text, str) else text.model_dump() for text in body.texts]
        within = None if body.within_ms is None else body.within_ms / 1e3
        with while_connected(request):
            return {"results": await service.classify(rows, within)}

    @app.post("/v1/embed", response_model=dict[str, Any])
    async def embed(body: Embed, request: Request) -> Response:
        """An embedding of each text, as OpenAI's embeddings endpoint gives them."""
        texts = [body.input] if isinstance(body.input, str) else body.input
        fleet = service.fleets[EMBEDDING_TASK]
        with while_connected(request):
            vectors = await service.embedding.of_a_client(texts)
        listing = embedding_list(vectors, texts, fleet.name(fleet.serving), body.encoding_format)
        return await long_reply(listing, "data")

    @app.get("/v1/variants")
    async def variants() -> dict[str, Any]:
        """The loaded variants of each task, with quality, times, health and the newest switches."""
        fleets = {task: fleet_state(fleet) for task, fleet in service.fleets.items()}
        return {"fleets": fleets, "switches": await asyncio.to_thread(service.archive.switches)}

    @app.get("/v1/switches")
    async def switches(before: Before = None, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> dict[str, Any]:
        """The switches from one variant to another, newest first, with their times and reasons."""
        return {"switches": await asyncio.to_thread(service.archive.switches, before, limit)}

    @app.post("/v1/variants/{number}:pin", status_code=204)
    async def pin(number: int, task: str = "") -> None:
        """Serve by this variant alone."""
        _pin(_chosen(service, task), number)

    @app.post("/v1/variants:unpin", status_code=204)
    async def unpin(task: str = "") -> None:
        """Let the controller choose again."""
        _pin(_chosen(service, task), None)


def _passages(app: FastAPI, service: Service) -> None:
    @app.get("/v1/passages", response_model=dict[str, Any])
    async def listed(
        after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0, limit: Annotated[int, Query(ge=1, le=500)] = 100
    ) -> Response:
        """Stored passages in order of their number."""
        rows = await asyncio.to_thread(service.archive.passages, after, limit)
        listing = [{"id": p.id, "source": p.source, "position": p.position, "text": p.text} for p in rows]
        return await long_reply({"passages": listing, "total": len(service.index)}, "passages")

    @app.post("/v1/passages", status_code=201)
    async def add(body: AddPassages) -> dict[str, Any]:
        """Store a text, cut into passages."""
        return {"ids": await service.add_passages(await asyncio.to_thread(_cut, body.source, body.text))}

    @app.post("/v1/passages/file", status_code=201)
    async def add_file(file: Annotated[UploadFile, File()]) -> dict[str, Any]:
        """Store a UTF-8 text file, cut into passages. Its name is kept as the source, and opens nothing."""
        content = await file.read(DOCUMENT * 4 + 1)
        try:
            text = content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise HTTPException(422, f"file: must be UTF-8 text, got byte {error.object[error.start]:#04x}") from None
        if not text or len(text) > DOCUMENT:
            raise HTTPException(422, f"file: must have 1 to {DOCUMENT} characters, got {len(text)}")
        pieces = await asyncio.to_thread(_cut, file.filename or "file", text)
        return {"ids": await service.add_passages(pieces)}

    @app.delete("/v1/passages/{number}", status_code=204)
    async def remove(number: int) -> None:
        """Remove a passage; answers from it stay in the history."""
        _in_range(number)
        if not await service.remove_passage(number):
            raise HTTPException(404, f"there is no passage {number}")


def _health(app: FastAPI, service: Service, metrics: Metrics, live: RecentTimes, ready: asyncio.Event | None) -> None:
    @app.get("/healthz")
    async def healthy() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def is_ready() -> Response:
        """Passages are embedded, and each task has a model that answers."""
        if ready is not None and not ready.is_set():
            return problems.problem(503, "passages are being embedded", problems.retry_after(1.0))
        now = time.monotonic()
        for task, fleet in service.fleets.items():
            if not fleet.dispatcher.look(lambda batcher: batcher.controller.available(now)):
                return problems.problem(503, f"every variant of {task} is out", problems.retry_after(1.0))
        return Response('{"status": "ready"}', media_type="application/json")

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """For Prometheus."""
        await asyncio.sleep(0)  # a request is counted in the turn of the event loop after that of its response
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/status")
    async def status() -> dict[str, Any]:
        """What the page's live panel shows."""
        return {
            "load": live.shown(),
            "passages": len(service.index),
            "answering": next((task for task in (ANSWERING, CAUSAL_TASK) if task in service.fleets), EMBEDDING_TASK),
            "fleets": {task: fleet_state(fleet) for task, fleet in service.fleets.items()},
        }


def _page(app: FastAPI) -> None:
    for path, name in FILES.items():
        app.add_api_route(path, _file(PAGE_FOLDER / name), include_in_schema=False)


def _file(path: Path) -> Any:
    async def given() -> FileResponse:
        return FileResponse(path)

    return given


def _cut(source: str, text: str) -> list[NewPassage]:
    pieces = list(islice(passages(clean(text).strip()), MOST_PASSAGES + 1))
    if not pieces:
        raise HTTPException(422, "text: must have characters besides space and NUL")
    if len(pieces) > MOST_PASSAGES:
        raise HTTPException(422, f"a document has at most {MOST_PASSAGES} passages, this one has more")
    return [NewPassage(source, position, piece) for position, piece in enumerate(pieces)]


def _chosen(service: Service, task: str) -> Fleet:
    """The fleet of a task; without a name the one that answers questions, or the only other one."""
    if task:
        if task not in service.fleets:
            raise HTTPException(404, f"task must be one of {', '.join(service.fleets)}, got {task[:50]}")
        return service.fleets[task]
    others = [name for name in service.fleets if name != EMBEDDING_TASK]
    return service.fleets[ANSWERING if ANSWERING in others else others[0] if others else EMBEDDING_TASK]


def _pin(fleet: Fleet, number: int | None) -> None:
    try:
        fleet.dispatcher.pin(number)
    except KeyError:
        having = ", ".join(str(v.number) for v in fleet.variants)
        raise HTTPException(404, f"variant must be one of {having}, got {number}") from None


def _in_range(number: int) -> None:
    """Raise 404 for a number that no row can have: databases have 32 bits for it."""
    if not 0 < number < 2**31:
        raise HTTPException(404, f"no entry has the number {number}")
