"""The workload of a task that generates: a call is a prompt and the tokens that follow it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from search.config.schema import RunConfig, WorkloadConfig
from search.config.source import Source
from search.errors import listed, wrong

#: Default numbers of tokens of a call.
DEFAULT_PROMPT, DEFAULT_NEW_TOKENS = 128, 32


def checked_workload(config: RunConfig, generating: Collection[str], source: Source) -> WorkloadConfig:
    """The workload of `config`. One of a `generating` task gets its numbers of prompt and new tokens.

    The length of its rows is that of the prompt.

    Raises:
        UserError: a prompt, new tokens or an objective of tokens for a task that generates none, or a length for one
            that does.
    """
    workload = config.workload
    if config.task not in generating:
        _refuse(config, generating, source)
        return workload
    prompt = DEFAULT_PROMPT if workload.prompt is None else workload.prompt
    if workload.length not in (WorkloadConfig().length, prompt):
        rule = f"left out for {config.task}, whose calls have workload.prompt ({prompt}) tokens"
        raise wrong(source.where("workload.length"), rule, workload.length)
    new_tokens = DEFAULT_NEW_TOKENS if workload.new_tokens is None else workload.new_tokens
    if new_tokens == 1:
        _refuse_later_tokens(config, source)
    return replace(workload, prompt=prompt, length=prompt, new_tokens=new_tokens)


def _refuse_later_tokens(config: RunConfig, source: Source) -> None:
    """Raise UserError for objectives and limits of later tokens, where a call generates one token only."""
    from objectives import generation_times

    rule = "left out with workload.new_tokens: 1, which has no token after the first"
    if config.limits.max_tpot_ms is not None:
        raise wrong(source.where("limits.max_tpot_ms"), rule, config.limits.max_tpot_ms)
    for key, name in config.named_objectives():
        if name.partition("/")[0] in generation_times.LATER:
            raise wrong(source.where(key), rule, name)


def call_named(config: RunConfig, generating: Collection[str]) -> tuple[str, ...]:
    """The objectives, with the time of a call under the name that it has for the task."""
    from objectives.generation_times import GENERATE
    from objectives.latency import P50

    if config.task not in generating:
        return config.objectives
    ours, theirs = GENERATE.name, P50.name
    parted = (name.partition("/") for name in config.objectives)
    return tuple(f"{ours if plain == theirs else plain}{bar}{mark}" for plain, bar, mark in parted)


def _refuse(config: RunConfig, generating: Collection[str], source: Source) -> None:
    """Raise UserError for settings that only a generating task has."""
    from objectives import generation_times, kv_cache

    having = listed(generating) or "one that generates"
    for key in ("prompt", "new_tokens"):
        if (value := getattr(config.workload, key)) is not None:
            raise wrong(source.where(f"workload.{key}"), f"left out unless the task is {having}", value)
    for key in ("max_ttft_ms", "max_tpot_ms"):
        if (bound := getattr(config.limits, key)) is not None:
            raise wrong(source.where(f"limits.{key}"), f"left out unless the task is {having}", bound)
    for key, name in config.named_objectives():
        if name.partition("/")[0] in (*generation_times.GENERATION_NAMES, *kv_cache.CACHE_NAMES):
            raise wrong(source.where(key), f"left out unless the task is {having}", name)
