"""Stage "model": facts and sizes of the base model, from its config.json and tokenizer alone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from objectives.process import Progress
from search.config.model_folder import model_folder
from search.config.schema import RunConfig
from search.prepare.model_facts import blaming, facts_of, outline
from search.tasks import task_of
from spaces.errors import Infeasible


def _embedding(source: Path, config: RunConfig, hidden: int) -> int:
    """The dimension of an embedding; 0 where the head gives none."""
    from spaces.heads import head_named
    from spaces.pooling import read_pooling

    if not head_named(task_of(config).own_head).embeds:
        return 0
    with blaming(config.where("model.name")):
        return read_pooling(source, hidden)[0].size(hidden)


def describe_model(folder: Path, config: RunConfig, progress: Progress) -> None:
    """Write `facts.json`, and `shape.json` with the sizes that axes decide over, from config.json and tokenizer alone.

    A model of unknown anatomy has `unknown.txt` with the reason instead of `shape.json`.

    Raises:
        UserError: the model or its tokenizer cannot be used.
    """
    from spaces.anatomy import anatomy_of
    from spaces.fused import take_apart

    source = model_folder(config.model, config.where)
    facts_of(source, config).write(folder)
    with blaming(config.where("model.name")):
        model = outline(source, config.model.name)
    take_apart(model)
    try:
        shape = anatomy_of(model).shape
        shape = replace(shape, embedding=_embedding(source, config, shape.hidden))
        (folder / "shape.json").write_text(json.dumps(asdict(shape)))
    except Infeasible as reason:
        (folder / "unknown.txt").write_text(str(reason), encoding="utf-8")
