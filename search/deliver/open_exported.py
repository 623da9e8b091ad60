"""Opens an exported model in a process of its own, on the device of its record where this machine has it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from objectives import clock
from objectives.bench import open_bench
from objectives.process import Remote
from search.deliver.best_config import BestConfig
from search.errors import UserError
from spaces import build
from spaces.base import ModelError
from spaces.errors import Infeasible
from spaces.runtime import Context


def open_exported(folder: Path, record: BestConfig, context: Context) -> Remote:
    """The exported model in a process of its own.

    Raises:
        UserError: files that are missing, foreign or pickled, or a runtime that cannot run here.
    """
    opening = partial(build.open_recipe, folder, record.recipe, context)
    try:
        return open_bench(opening, context.device, context.threads, timeout_s=600)
    except ModelError as error:
        raise UserError(str(error)) from None
    except Infeasible as reason:
        raise UserError(f"{folder}: cannot run on this machine: {reason}") from None


def recorded_context(record: BestConfig) -> Context:
    """The device of the record where this machine has it, else the CPU, with the record's threads and cache."""
    import torch

    measured = str(record.conditions["hardware"].get("device", "cpu"))
    device = "cuda" if measured == "cuda" and torch.cuda.is_available() else "cpu"
    load = record.config["workload"]
    answer = {} if load.get("prompt") is None else {"cache_tokens": int(load["prompt"]) + int(load["new_tokens"])}
    return Context(device, int(load.get("threads") or 0), **answer)


def same_kind(record: BestConfig, context: Context) -> str:
    """ "" where this is the kind of device that the record was measured on, else the difference in words."""
    then = record.conditions["hardware"]
    now = clock.fingerprint(context.device)
    for key in ("device", "cpu"):
        if then.get(key) != now.get(key):
            return f"measured on {then.get(key)}, this is {now.get(key)}"
    if context.device == "cuda" and _gpu(then) != _gpu(now):
        return f"measured on {_gpu(then)}, this is {_gpu(now)}"
    return ""


def _gpu(hardware: Mapping[str, Any]) -> str:
    return ", ".join(str(gpu.get("name")) for gpu in hardware.get("gpu") or [])
