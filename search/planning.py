"""`python -m search plan`: what a run would search and cost, without training anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from search import compose
from search.config import RunConfig
from search.model_folder import model_folder
from search.space import Space, anchors, open_space
from search.tasks import task_named
from search.trained_head import trained_head
from spaces.anatomy import anatomy_of
from spaces.axis import Infeasible
from spaces.base import ModelError, load_base


def plan_lines(config: RunConfig) -> Iterator[str]:
    """Lines for a person. Reads the data and the base model; trains nothing, writes nothing.

    Raises:
        UserError: what a run would raise before its first trial.
    """
    from transformers import AutoConfig

    from search.errors import UserError

    context = compose.context_of(config)
    folder = model_folder(config)
    described = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    splits = task_named(config.task).load(config.data, config.where, trained_head(config, described, folder))
    try:
        pairs = splits.train.pairs is not None
        model, _ = load_base(folder, config.model.name, config.model.revision, config.model.head, splits.labels, pairs)
    except ModelError as error:
        raise UserError(f"{config.where('model.name')}: {error}") from None
    try:
        shape, unknown = anatomy_of(model.backbone).shape, ""
    except Infeasible as reason:
        shape, unknown = None, str(reason)
    space = open_space(config, shape, context, unknown)
    count = sum(p.numel() for p in model.parameters())
    yield f"study     {config.study} in {Path(config.mlruns)}"
    yield f"model     {config.model.name}: {count / 1e6:.1f} M parameters"
    yield f"data      {len(splits.train)} train, {len(splits.validation)} validation, {len(splits.test)} test rows"
    yield f"device    {context.device}, {context.threads} threads"
    ways = f"{len(space.pairs)} pairs of runtime and width"
    yield f"space     {space.size():,} settings of {len(space.searched)} knobs, in {ways}"
    yield from _knob_lines(space)
    for name, why in space.missing.items():
        yield f"  left out: {name}: {why}"
    yield from _cost_lines(config, space, len(splits.train))


def _knob_lines(space: Space) -> Iterator[str]:
    for name, knob in space.searched.items():
        values = ", ".join(map(str, knob.values())) if len(knob.values()) <= 12 else f"{knob.low} to {knob.high}"
        yield f"  {name:<18}{values}"


def _cost_lines(config: RunConfig, space: Space, rows: int) -> Iterator[str]:
    """Counts of work: rows trained on, and models measured."""
    baselines = len(space.pairs)
    first = len(anchors(space))
    sampled = max(0, config.budget.trials - baselines)
    recovered = min(config.recover.rows or rows, rows) * config.recover.epochs
    yield f"baselines {baselines} trials: the uncompressed model under every pair"
    yield f"anchors   up to {first} known good settings, then the sampler {config.sampler!r}"
    taught = config.teacher.epochs * rows
    yield f"training  teacher {taught:,.0f} rows; every new set of weights at most {recovered:,.0f} rows"
    yield (
        f"trials    {config.budget.trials} in all, {sampled} of them compressed; one set of weights gives up to "
        f"{baselines}, so about {max(1, sampled // max(1, baselines))} to {sampled} sets are trained"
    )
    limit = config.budget.timeout
    yield f"time      {'no limit' if limit is None else f'at most {limit:g} s, export included'}"
