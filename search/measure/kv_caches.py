"""Caches of language models: their settings and their memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from objectives.bench import Batch
from objectives.kv_cache import A_TOKEN, AT_END
from objectives.measurement import Measurement
from objectives.workload import TIMED_NEW_TOKENS
from search.space.stored_sizes import key_heads
from spaces import build
from spaces.axes.bits import INTEGER
from spaces.axes.cache import settings_of
from spaces.cache_settings import CacheSettings
from spaces.generation import cache_size
from spaces.generation.causal_predict import default_cache
from spaces.recipe import Recipe
from spaces.runtime import Context


def through(recipe: Recipe) -> dict[str, object]:
    """The settings of the cache that change outputs; empty where every cache gives the same outputs."""
    cache = build.cache_of(recipe)
    return {} if cache is None or not cache.lossy else {"cache": dict(settings_of(cache))}


def step_bytes(recipe: Recipe, folder: Path, context: Context, batch: Batch) -> float:
    """The least bytes of the keys and values of one row that a step after the prompts of a timed call reads.

    0 where nothing is generated, and for an unknown model family.
    """
    shape = key_heads(folder) if TIMED_NEW_TOKENS in batch else None
    if shape is None:
        return 0.0
    cache, precision = _opened(recipe, context)
    tokens = batch["attention_mask"].shape[1]
    least = cache_size.cache_bytes(tokens, *shape, replace(cache, capacity=tokens), precision)
    # Kernels of integers on a GPU compute, and keep, keys and values in bf16.
    return least / 2 if context.device == "cuda" and precision in INTEGER else least


def predicted(recipe: Recipe, folder: Path, context: Context, rows: int) -> dict[str, Measurement]:
    """Memory of the cache of the weights in `folder`, per token and at the end of a call of `rows` rows.

    Empty for an unknown model family.
    """
    shape = key_heads(folder)
    if shape is None:
        return {}
    cache, precision = _opened(recipe, context)
    conditions = {"predicted": True, "kind": cache.kind, "tokens": context.cache_tokens, "batch": rows}
    if cache.kind == "sliding":
        conditions["most_tokens"] = cache.sinks + cache.window
    a_token = cache_size.bytes_a_token(*shape, cache, precision)
    at_end = rows * cache_size.cache_bytes(context.cache_tokens, *shape, cache, precision)
    figures = (A_TOKEN.counted(a_token / 1e3, conditions), AT_END.counted(at_end / 1e6, conditions))
    return {figure.objective: figure for figure in figures}


def _opened(recipe: Recipe, context: Context) -> tuple[CacheSettings, str]:
    """The settings of the cache that a recipe is opened with, and its precision."""
    named = build.cache_of(recipe) or default_cache(recipe.runtime.name, context)
    return replace(named, capacity=context.cache_tokens), cache_size.cached_precision(
        recipe.runtime.name, str(build.precision_of(recipe)["precision"])
    )
