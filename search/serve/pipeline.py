"""Loads exported models, whose arguments and results are those of the transformers pipeline of their task."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from search.deliver.best_config import BestConfig
from search.deliver.read_exported import read_exported
from search.errors import UserError, unknown
from search.serve.exported_model import ExportedModel
from search.store.paths import expanded
from search.tasks import task_named
from spaces.base import ModelError, read_config
from spaces.errors import Infeasible
from spaces.runtime import Context

__all__ = ["ExportedModel", "answering", "load", "model_class"]

LOAD_DEVICES = ("auto", "cpu", "cuda")


def model_class(task: str) -> type[ExportedModel]:
    """What answers for the registered task of this name (`Task.reply_model`)."""
    module, _, name = task_named(task).reply_model.partition(":")
    kind = getattr(importlib.import_module(module), name)
    assert isinstance(kind, type) and issubclass(kind, ExportedModel)
    return kind


def load(folder: str | Path, device: str = "auto") -> ExportedModel:
    """The model that a search exported to `folder`, ready to call.

    Its files are first compared with the digests in its record (`search.deliver.read_exported.read_exported`).

    Args:
        device: "cpu", "cuda", or "auto": the device it was measured on where this machine has it, else the CPU.

    Raises:
        UserError: no such folder, files that are missing, edited, foreign or pickled, another device, or a runtime that
            is not installed (the message has the install command).
    """
    where = expanded(folder)
    record = read_exported(where)
    context = serving_context(record, device)
    try:
        read_config(where)
        return model_class(record.recipe.task).opened(where, record, context)
    except ModelError as error:
        raise UserError(str(error)) from None
    except Infeasible as reason:
        raise UserError(f"{where}: cannot run on this machine: {reason}") from None


def answering(model: Any) -> Callable[[Sequence[Any]], list[Any]]:
    """All rows of a batch in one call of an exported model."""
    from search.serve.answerer import Answerer

    def answer(rows: Sequence[Any]) -> list[Any]:
        if isinstance(model, Answerer):
            asked, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
            return list(model(asked, contexts, batch_size=max(8, len(rows))))
        return list(model(list(rows), batch_size=len(rows)))

    return answer


def serving_context(record: BestConfig, device: str) -> Context:
    """Where and how `load` runs a model. Raises UserError: no device of `LOAD_DEVICES`, or "cuda" without one."""
    return Context(device=_device(record, device), threads=0)


def _device(record: BestConfig, wanted: str) -> str:
    import torch

    if wanted not in LOAD_DEVICES:
        raise unknown("device", "device", wanted, LOAD_DEVICES)
    here = torch.cuda.is_available()
    if wanted == "cuda" and not here:
        raise UserError("device: must be a device of this machine, got cuda, and torch sees none")
    if wanted != "auto":
        return wanted
    measured = str(record.conditions["hardware"].get("device", "cpu"))
    return "cuda" if measured == "cuda" and here else "cpu"
