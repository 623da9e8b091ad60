"""The trained head that a model may have, and its labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from search.config.model_folder import weight_files
from search.config.schema import RunConfig
from search.errors import UserError, listed
from search.prepare.model_facts import blaming
from search.tasks import task_named
from search.tasks.trained_labels import TrainedLabels, head_labels
from spaces.heads import Head, head_named
from spaces.loading import reading


def trained_head(config: RunConfig, described: Any, folder: Path) -> TrainedLabels | None:
    """The trained head of the model in `folder`; None where it has none and a new one is trained.

    `described` is the model's transformers configuration.

    Raises:
        UserError: the model has no trained head and none would be trained, or its labels are invalid.
    """
    from spaces.base import has_own_head

    task = task_named(config.task)
    own = config.model.head == "auto" and has_own_head(described, task.own_head)
    if config.teacher.epochs == 0 and task.supervised:
        with blaming(config.where("model.name")):
            lack = _lack(config.model.head, head_named(task.own_head), described, folder)
        if lack:
            raise UserError(
                f"{config.where('teacher.epochs')}: must be above 0: no trained head in {config.model.name} ({lack}), "
                "and with a random one nothing would be searched; set teacher.epochs"
            )
    if not own or not task.labelled:
        return None
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return TrainedLabels(head_labels(content, config.where("model.name")), trained_on=config.teacher.epochs > 0)


def _lack(head: str, kind: Head, described: Any, folder: Path) -> str:
    """Why the model's own head cannot be used; "" where it can."""
    if head == "mean":
        return "model.head: mean makes a new one"
    if not kind.architectures() & set(described.architectures or ()):
        return f"its architecture is {listed(described.architectures or ()) or 'not named in config.json'}"
    missing = _head_weights(kind, described) - _stored(folder)
    return f"its weights have no {min(missing)}" if missing else ""


def _head_weights(kind: Head, described: Any) -> set[str]:
    """The names of all weights outside the backbone, as transformers builds a model of this configuration."""
    import torch

    with reading(f"its config.json describes no {kind.called}"), torch.device("meta"):
        model = kind.transformers().from_config(described, trust_remote_code=False)
    return {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}


def _stored(folder: Path) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for file in weight_files(folder):
        with safe_open(file, framework="numpy") as opened:
            names.update(opened.keys())
    return names
