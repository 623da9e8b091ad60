"""The machine of a search: its device, the context of candidates, and its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from objectives import clock, objective_named
from objectives.workload import Workload, marked, other
from objectives.workload import device_of_mark as workload_device
from search.config.schema import RunConfig
from search.errors import UserError
from search.prepare.prepared import cores
from spaces.runtime import Context


def device_of(config: RunConfig) -> str:
    """The device of the run. Raises UserError for cuda where there is none."""
    import torch

    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{config.where('device')}: must be a device of this machine, got cuda, and torch sees none")
    return config.device


def context_of(config: RunConfig) -> Context:
    """The device, threads and cache that candidates run with.

    Raises:
        UserError: a device that this machine does not have, or an objective that its device cannot measure.
    """
    device = device_of(config)
    for key, name in config.named_objectives():
        if name == "metric":
            continue
        mark = marked(name)[1]
        there = (workload_device(mark) if mark else None) or device
        if there == "cuda" and not _has_cuda():
            raise UserError(
                f"{config.where(key)}: must name a device of this machine, got {name}, and torch sees no cuda"
            )
        _check_prompt(config, name, mark, key)
        missing = objective_named(name).missing(there)
        if missing:
            raise UserError(f"{config.where(key)}: must be measurable on this {there}, got {name}: {missing}")
    load = config.workload
    answer = {} if load.prompt is None else {"cache_tokens": load.prompt + (load.new_tokens or 0)}
    return Context(device=device, threads=load.threads or cores(), **answer)


def _check_prompt(config: RunConfig, name: str, mark: str, key: str) -> None:
    """Raise UserError for a further workload (`mark`) with prompts longer than those of the main workload.

    Caches are allocated for the prompts of the main one.
    """
    load = config.workload
    if not mark or load.prompt is None:
        return
    length = other(Workload(load.batch, load.length), mark).length
    if length == "data" or length > load.prompt:
        raise UserError(
            f"{config.where(key)}: must have prompts of at most workload.prompt ({load.prompt}) tokens, "
            f"which caches have room for, got {name}"
        )


def environment_of(device: str, others: Sequence[str] = ()) -> dict[str, Any]:
    """The device's fingerprint as JSON, without readings that vary over time; it is part of keys.

    `others` are devices that objectives name beside it; their GPUs are part of the machine too.
    """
    fingerprint = clock.steady(clock.fingerprint(device))
    for beside in others:
        fingerprint["gpu"] = fingerprint["gpu"] or clock.steady(clock.fingerprint(beside))["gpu"]
    plain: dict[str, Any] = json.loads(json.dumps(fingerprint, default=str))
    return plain


def devices_beside(config: RunConfig, device: str) -> list[str]:
    """Devices other than `device` that objectives and limits name: ["cuda"] for "latency_p50_ms/cuda" on the CPU."""
    marks = (marked(name)[1] for name in (*config.objectives, *config.limits.others) if name != "metric")
    named = (workload_device(mark) for mark in marks if mark)
    return list(dict.fromkeys(name for name in named if name is not None and name != device))


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())
