"""A fleet: the loaded members of one front behind a queue, for one task."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.deliver.read_exported import NOT_OF_THE_SHAPE, check_member
from search.errors import UserError, unknown
from search.serve.batch_times import batched
from search.serve.batching import Batcher, Limits, limits_for
from search.serve.controller import Controller
from search.serve.dispatcher import Answered, Dispatcher, Run
from search.serve.policy import BacklogFit
from search.serve.variants import Variant, embedding_variant, from_front, loadable
from search.serve.windows import WindowSettings, windows_of
from search.tasks import TASKS, task_named

if TYPE_CHECKING:
    from search.serve.worker import Workers

log = logging.getLogger(__name__)

#: Tokens of a completion by which variants are ordered.
ORDERING_TOKENS = 64

#: The task whose fleet embeds passages and questions, and the one whose fleet completes texts.
EMBEDDING_TASK, CAUSAL_TASK = "sentence-similarity", "causal-lm"
#: Full batches of short texts that an embedding fleet has time for: it has one model, so no objective is kept by
#: changing it. An answer takes three or four, and waits for one of passages that are stored meanwhile.
QUEUED_BATCHES = 8

#: Answers to rows by one model, all in one call.
AnswerRows = Callable[[Sequence[Any]], Sequence[Any]]


class Fleet:
    """Models of one task by variant.

    Args:
        task: its name.
        study: the study that found the models, or a name for the model.
        variants: fastest first.
        answers: by the variant's number.
        quality: the metric's name; "" where none was measured.
        windows: how its models read long texts.
        workers: the processes that answer; None: threads of this process answer.
    """

    def __init__(
        self,
        task: str,
        study: str,
        variants: Sequence[Variant],
        answers: Mapping[int, AnswerRows],
        limits: Limits,
        quality: str = "",
        windows: WindowSettings | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.windows, self.workers = windows or WindowSettings(), workers
        self.task, self.study, self.metric = task, study, quality
        self.answers = answers
        self.variants = tuple(variants)
        self.limits = limits = limits_for(self.variants, limits)
        self.controller = Controller(self.variants, BacklogFit())
        self.dispatcher = Dispatcher(Batcher(self.controller, limits), [row_errors_apart(answers)])
        if workers is not None:
            # The objective of a completion is that of all its pieces.
            workers.expect(self.variants, 0.0 if task_named(task).generates else limits.slo_s, self.windows.length)
            workers.watch(self.dispatcher)

    def name(self, number: int) -> str:
        """The name of a variant in answers and in the history: "study/7"."""
        return f"{self.study}/{number}"

    @property
    def serving(self) -> int:
        """The number of the variant that serves, or that would: the pinned one, or that of the last batch."""
        controller = self.controller
        pinned, last = self.dispatcher.look(lambda _: (controller.pinned, controller.state.number))
        number = last if pinned is None else pinned
        return self.variants[-1].number if number is None else int(number)

    def close(self, timeout_s: float = 10.0) -> None:
        self.dispatcher.close(timeout_s)
        if self.workers is not None:
            self.workers.close()


async def answered(
    fleet: Fleet, rows: Sequence[tuple[Any, int]], within_s: float | None, due_s: float = math.inf
) -> list[Answered]:
    """The answers to (row, tokens) in order; where one is refused or fails, the others are cancelled.

    `within_s` and `due_s` are those of `Dispatcher.submit`.

    Raises:
        RefusedError, ExpiredError, FailedError: of any row.
    """
    futures: list[asyncio.Future[Answered]] = []
    try:
        for payload, length in rows:
            futures.append(asyncio.wrap_future(fleet.dispatcher.submit(payload, length, within_s, due_s)))
        # A single one has its answer without the further turn of the event loop that gather takes.
        return [await futures[0]] if len(futures) == 1 else list(await asyncio.gather(*futures))
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def row_errors_apart(answers: Mapping[int, AnswerRows]) -> Run:
    def run(number: int, payloads: Sequence[Any]) -> Sequence[Any]:
        """The answers; for a row that the model refuses, its error."""
        answer = answers[number]
        try:
            return answer(payloads)
        except (ValueError, TypeError) as error:
            if len(payloads) == 1:
                return [ValueError(str(error))]
            # By halves: one row in a batch of 32 costs ten calls, and not 32.
            middle = len(payloads) // 2
            return [*run(number, payloads[:middle]), *run(number, payloads[middle:])]

    return run


def embedding_limits(limits: Limits, variant: Variant) -> Limits:
    """`limits` with the larger of its objective and the time of `QUEUED_BATCHES` full batches of the only model."""
    return replace(limits, slo_s=max(limits.slo_s, QUEUED_BATCHES * variant.seconds(limits.max_batch)))


def load_fleet(
    folder: Path,
    limits: Limits,
    memory_mb: float,
    device: str = "auto",
    workers: str = "thread",
    prefix_mb: float = 0.0,
) -> Fleet:
    """The front in an export's folder (`mlruns/exports/<study>`), with as many of its models as fit into `memory_mb`.

    Args:
        workers: "thread" of this process, or a "process" for each model.
        prefix_mb: of the prompts that each language model stores (`Generator.reuse_prefixes`); 0: none.

    Raises:
        UserError: the folder holds no export, or a model cannot be loaded here.
    """
    from search.serve.model_process import loaded

    path = folder / "front.json"
    try:
        front = json.loads(path.read_text(encoding="utf-8"))
        variants = from_front(front)
        task, study, metric = str(front["task"]), str(front["study"]), str(front["metric"])
    except FileNotFoundError:
        raise UserError(f"{folder}: no front.json; an export has one: python -m search export STUDY") from None
    except NOT_OF_THE_SHAPE as error:
        raise UserError(f"{path}: not the front of an export ({type(error).__name__}: {error})") from None
    names = [task.name for task in TASKS]
    if task not in names:
        raise unknown(f"{path}: task", "task", task, names)
    if not variants:
        raise UserError(f"{path}: a front without members; there is nothing to serve")
    # Embeddings of two models do not compare, so one member embeds for good.
    embeds = task_named(task).embeds
    chosen = (embedding_variant(variants, memory_mb),) if embeds else loadable(variants, memory_mb)
    if (needed := sum(v.memory_mb for v in chosen)) > memory_mb:  # then one is loaded, alone
        log.warning("%s: no member fits into %g MB (--memory-mb); one of %g MB is loaded", study, memory_mb, needed)
    if embeds:
        limits = embedding_limits(limits, chosen[0])
    folders = {v.number: folder / "models" / str(v.number) for v in chosen}
    for number, path in folders.items():
        check_member(path, study, task, number)
    # Caches of language models may differ in size; the members of another front read texts alike.
    asked = chosen if task_named(task).generates else chosen[:1]
    windows = max((windows_of(task, folders[v.number], device) for v in asked), key=lambda w: (w.endless, w.tokens))
    about = ExportedFront(task, study, metric, chosen, windows)
    if workers == "process":
        return in_processes(about, folders, limits, device, prefix_mb)
    models = {number: loaded(path, device, prefix_mb) for number, path in folders.items()}
    return in_threads(about, models, limits)


@dataclass(frozen=True)
class ExportedFront:
    """An exported front, from which a fleet is loaded."""

    task: str
    study: str
    metric: str
    variants: tuple[Variant, ...]
    windows: WindowSettings


def in_threads(front: ExportedFront, models: Mapping[int, Any], limits: Limits) -> Fleet:
    """The fleet of a front whose models answer in threads of this process."""
    from search.serve import generation_request
    from search.serve.pipeline import answering

    variants = front.variants
    answers: dict[int, AnswerRows] = {number: answering(model) for number, model in models.items()}
    if task_named(front.task).generates:
        variants = by_tokens(generation_request.timed(v, models[v.number]) for v in variants)
        limits = generation_request.LIMITS
        answers = {number: generation_request.generating(model, number) for number, model in models.items()}
    else:
        variants = tuple(batched(v, models[v.number]) for v in variants)
    return Fleet(front.task, front.study, variants, answers, limits, front.metric, front.windows)


def in_processes(
    front: ExportedFront, folders: Mapping[int, Path], limits: Limits, device: str, prefix_mb: float
) -> Fleet:
    """The fleet of a front with a process for each model; all processes end where one fails.

    Raises:
        UserError: a model cannot be loaded here, or its process hangs or dies before it serves.
    """
    from search.serve import generation_request
    from search.serve.model_process import ModelProcess
    from search.serve.worker import Workers

    with contextlib.ExitStack() as failing:
        workers = Workers({number: partial(ModelProcess, path, device, prefix_mb) for number, path in folders.items()})
        failing.callback(workers.close)
        variants, answers, paces = front.variants, workers.answers, {}
        if task_named(front.task).generates:
            variants = by_tokens(workers[v.number].warm("timed", v) for v in variants)
            answers, limits = workers.completions, generation_request.LIMITS
        else:
            paces = {v.number: workers[v.number].warm("pace") for v in variants}
            variants = tuple(workers[v.number].warm("batched", v) for v in variants)
        fleet = Fleet(front.task, front.study, variants, answers, limits, front.metric, front.windows, workers)
        workers.paced(paces)
        failing.pop_all()
    return fleet


def by_tokens(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Variants that complete texts, fastest first."""
    return tuple(sorted(variants, key=lambda v: v.seconds(1, ORDERING_TOKENS)))
