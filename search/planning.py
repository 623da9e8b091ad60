"""`python -m search plan`: the space and the cost of a run, without training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from search.config.model_folder import model_folder
from search.config.schema import RunConfig
from search.execute.forecast import forecast
from search.prepare.data import cutting_tokenizer, numbered_splits
from search.prepare.folders import REFERENCE_ROWS
from search.prepare.machine import context_of
from search.prepare.model import describe_model
from search.prepare.model_facts import check_tokens, unknown_note
from search.prepare.runner import searched_model
from search.prepare.teacher import load_and_try
from search.report import cache_sentences
from search.space.space import Space, anchors
from search.tasks import task_of
from search.tasks.tokens import frame_of


def plan_lines(config: RunConfig) -> Iterator[str]:
    """Lines about space and cost of a run. Reads the data and the base model, and writes nothing.

    For a language model that would be recovered a few training steps are timed.

    Raises:
        UserError: as a run would raise before its first trial.
    """
    context = context_of(config)
    folder = model_folder(config.model, config.where)
    with tempfile.TemporaryDirectory() as temporary:

        def describe() -> Path:
            describe_model(Path(temporary), config, lambda stage, done: None)
            return Path(temporary)

        base = searched_model(config, context, describe)
    space = base.space
    splits = numbered_splits(config, folder)
    tokenizer = cutting_tokenizer(config, folder, base.facts)
    sample = splits.train.rows(np.arange(min(REFERENCE_ROWS, len(splits.train))))
    task = task_of(config)
    rows = task.encode(tokenizer, sample, config.data, splits.labels, config.where)
    encoded = rows.encoded
    check_tokens(encoded, sample, "train", config)
    model, _ = load_and_try(config, folder, splits.labels, frame_of(tokenizer, task.paired(config.data)), encoded)
    count = sum(p.numel() for p in model.parameters())
    yield f"study     {config.study} in {Path(config.mlruns)}"
    yield f"model     {config.model.name}: {count / 1e6:.1f} M parameters"
    yield f"data      {len(splits.train)} train, {len(splits.validation)} validation, {len(splits.test)} test rows"
    unknown = unknown_note(tokenizer, encoded, "train")
    for note in (*splits.notes, *base.notes, *space.notes, *unknown):
        yield f"  note: {note}"
    yield f"device    {context.device}, {context.threads} threads"
    ways = f"{len(space.deployments)} deployments"
    yield f"space     {space.size():,} settings of {len(space.searched)} knobs, in {ways}"
    yield from _knob_lines(space)
    yield from cache_sentences.kv_cache_lines(space)
    for name, why in space.missing.items():
        yield f"  left out: {name}: {why}"
    yield from _cost_lines(config, space, len(splits.train))
    timed = task.forecast_rows(rows)
    if timed is not None and config.recover.epochs > 0 and space.compresses:
        yield f"recovery  {forecast(config, model, *timed, len(sample) / len(splits.train), context.device)}"


def _knob_lines(space: Space) -> Iterator[str]:
    for name, knob in space.searched.items():
        values = ", ".join(map(str, knob.values())) if len(knob.values()) <= 12 else f"{knob.low} to {knob.high}"
        yield f"  {name:<18}{values}"


def _cost_lines(config: RunConfig, space: Space, rows: int) -> Iterator[str]:
    """Counts of work: rows trained on, and models measured."""
    baselines = len(space.deployments)
    first = len(anchors(space))
    sampled = max(0, config.budget.trials - baselines)
    recovered = min(config.recover.rows or rows, rows) * config.recover.epochs
    yield f"baselines {baselines} trials: the uncompressed model under every deployment"
    yield f"anchors   up to {first} known good settings, then the sampler {config.sampler!r}"
    taught = config.teacher.epochs * rows
    yield f"training  teacher {taught:,.0f} rows; every new set of weights at most {recovered:,.0f} rows"
    yield (
        f"trials    {config.budget.trials} in all, {sampled} of them compressed; one set of weights gives up to "
        f"{baselines}, so about {max(1, sampled // max(1, baselines))} to {sampled} sets are trained"
    )
    limit = config.budget.timeout
    yield f"time      {'no limit' if limit is None else f'at most {limit:g} s, export included'}"
