"""`python -m search plan`: the space and the cost of a run, without training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from search.config.model_folder import model_folder, weights_note
from search.config.schema import RunConfig
from search.execute.forecast import Trained, forecast, trained
from search.prepare.data import cutting_tokenizer, generation_config, numbered_splits
from search.prepare.folders import REFERENCE_ROWS
from search.prepare.machine import context_of
from search.prepare.model import describe_model
from search.prepare.model_facts import check_tokens, cut_note, unknown_note
from search.prepare.runner import searched_model
from search.prepare.teacher import load_and_try
from search.report import cache_sentences
from search.space.space import Space, anchors
from search.tasks import task_of
from search.tasks.tokens import frame_of

#: Values of a knob that are listed one by one.
FEW = 12


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
    generation_config(config, folder)  # raises as a run would
    rows = task.encode(tokenizer, sample, config.data, splits.labels, config.where)
    encoded = rows.encoded
    check_tokens(encoded, sample, "train", config)
    model, _ = load_and_try(config, folder, splits.labels, frame_of(tokenizer, task.paired(config.data)), encoded)
    count = sum(p.numel() for p in model.parameters())
    yield f"study     {config.study} in {Path(config.mlruns)}"
    yield f"model     {config.model.name}: {count / 1e6:.1f} M parameters"
    yield f"data      {len(splits.train)} train, {len(splits.validation)} validation, {len(splits.test)} test rows"
    whole = len(sample) == len(splits.train)
    of_tokens = [
        *unknown_note(tokenizer, encoded, "train"),
        *cut_note(config, base.facts, encoded, "train" if whole else f"the first {len(sample):,} rows of train"),
    ]
    for note in (*splits.notes, *base.notes, *space.notes, *of_tokens, *weights_note(config.model, config.where)):
        yield f"  note: {note}"
    yield f"device    {context.device}, {context.threads} threads"
    ways = f"{len(space.deployments)} deployments"
    yield f"space     {space.size():,} settings of {len(space.searched)} knobs, in {ways}"
    yield from knob_lines(space)
    yield from cache_sentences.kv_cache_lines(space)
    for name, why in space.missing.items():
        yield f"  left out: {name}: {why}"
    timed, share = task.forecast_rows(rows), len(sample) / len(splits.train)
    recovery = trained(config, encoded if timed is None else timed[0], share)
    yield from cost_lines(config, space, len(splits.train), recovery)
    if timed is not None and config.recover.epochs > 0 and space.compresses:
        yield f"recovery  {forecast(config, model, *timed, share, context.device)}"


def knob_lines(space: Space) -> Iterator[str]:
    """What each searched knob can take: a few values by themselves, more as a range."""
    for name, knob in space.searched.items():
        few = not knob.ordered or (knob.step is not None and len(knob.values()) <= FEW)
        values = ", ".join(map(str, knob.values())) if few else knob.span
        yield f"  {name:<18}{values}"


def cost_lines(config: RunConfig, space: Space, rows: int, recovery: Trained) -> Iterator[str]:
    """Counts of work: rows trained on, and models measured."""
    baselines = len(space.deployments)
    first = len(anchors(space))
    sampled = max(0, config.budget.trials - baselines)
    recovered = f"{recovery.rows * recovery.epochs:,.0f} rows ({recovery.tokens * recovery.epochs:,.0f} tokens)"
    yield f"baselines {baselines} trials: the uncompressed model under every deployment"
    yield f"anchors   up to {first} known good settings, then the sampler {config.sampler!r}"
    taught = config.teacher.epochs * rows
    yield f"training  teacher {taught:,.0f} rows; every new set of weights at most {recovered}"
    yield (
        f"trials    {config.budget.trials} in all, {sampled} of them compressed; one set of weights gives up to "
        f"{baselines}, so about {max(1, sampled // max(1, baselines))} to {sampled} sets are trained"
    )
    limit = config.budget.timeout
    yield f"time      {'no limit' if limit is None else f'at most {limit:g} s, export included'}"
