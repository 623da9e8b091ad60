"""Stage "data": reads, checks and tokenises the data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from objectives.process import Progress
from search.config.model_folder import model_folder, weights_note
from search.config.schema import RunConfig
from search.errors import UserError
from search.prepare.model_facts import (
    ModelFacts,
    blaming,
    check_fit,
    check_tokens,
    cut_note,
    longest_row,
    unknown_note,
)
from search.prepare.trained_head import trained_head
from search.tasks import Splits, task_of
from search.tasks.rows import SPLITS
from search.tasks.tokens import frame_of, load_tokenizer
from spaces.loading import model_config

#: Where transformers lists the end tokens of a model that generates, which may be more than those of its config.json.
GENERATION_CONFIG = "generation_config.json"


def prepare_data(folder: Path, config: RunConfig, model: Path, progress: Progress) -> None:
    """Write `<split>.npz`, `data.json`, and the tokenizer's own files to `folder`.

    `model` is the folder that `describe_model` filled.

    Raises:
        UserError: data that cannot be read or used, or a model or tokenizer that they do not fit.
    """
    facts = ModelFacts.read(model)
    notes = check_fit(config, facts)
    progress("reading data", 0.0)
    task = task_of(config)
    source = model_folder(config.model, config.where)
    splits = numbered_splits(config, source)
    of_tokens: list[str] = []
    tokenizer = cutting_tokenizer(config, source, facts)
    for number, name in enumerate(SPLITS):
        part = getattr(splits, name)
        rows = task.encode(tokenizer, part, config.data, splits.labels, config.where)
        check_tokens(rows.encoded, part, name, config)
        of_tokens += unknown_note(tokenizer, rows.encoded, name)
        of_tokens += cut_note(config, facts, rows.encoded, name)
        rows.write(folder, name)
        progress("reading data", (number + 1) / len(SPLITS))
    tokenizer.save_pretrained(folder / "tokenizer")
    if (file := generation_config(config, source)) is not None:
        shutil.copyfile(file, folder / "tokenizer" / file.name)
    paired = task.paired(config.data)
    about = {
        "labels": list(splits.labels),
        "digest": splits.digest,
        "notes": [*splits.notes, *notes, *of_tokens, *weights_note(config.model, config.where)],
        "pairs": paired,
        "frame": frame_of(tokenizer, paired),
        "rows": {name: len(getattr(splits, name)) for name in SPLITS},
    }
    (folder / "data.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")


def numbered_splits(config: RunConfig, source: Path) -> Splits:
    """The splits of the data, with the label numbers of the model in `source` where its own head is used."""
    with blaming(config.where("model.name")):
        described = model_config(source, config.model.name)
    return task_of(config).load(config.data, config.where, trained_head(config, described, source))


def cutting_tokenizer(config: RunConfig, source: Path, facts: ModelFacts) -> Any:
    """The tokenizer of the model in `source`, which truncates to the longest row of this search (`longest_row`)."""
    cutting = load_tokenizer(source, config.where("model.name"))
    cutting.model_max_length = longest_row(config, facts)[0]
    return cutting


def generation_config(config: RunConfig, source: Path) -> Path | None:
    """The generation_config.json of the model in `source`; None where it has none, or the task generates nothing.

    Raises:
        UserError: it is no JSON object.
    """
    file, where = source / GENERATION_CONFIG, config.where("model.name")
    if not task_of(config).generates or not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{where}: {file.name} in {source} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: {file.name} in {source} must be a JSON object, got {type(content).__name__}")
    return file
