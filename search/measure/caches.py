"""Caches of language models: what outputs depend on, and how much memory they take."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from objectives.cache import A_TOKEN, AT_END
from objectives.measurement import Measurement
from search.space.stored_sizes import key_heads
from spaces import build
from spaces.generation import cache_size
from spaces.generation.causal import default_cache
from spaces.recipe import Recipe
from spaces.runtime import Context


def through(recipe: Recipe) -> dict[str, object]:
    """The cache that outputs depend on; nothing where they are the same through all."""
    cache = build.cache_of(recipe)
    return {} if cache is None or not cache.lossy else {"cache": asdict(cache)}


def predicted(recipe: Recipe, folder: Path, context: Context, rows: int) -> dict[str, Measurement]:
    """Memory of the cache of the weights in `folder`: of a token, and at the end of a call of `rows` rows.

    Nothing for a family that is not known.
    """
    shape = key_heads(folder)
    if shape is None:
        return {}
    named = build.cache_of(recipe) or default_cache(recipe.runtime.name, context)
    cache, precision = replace(named, capacity=context.cache_tokens), str(build.precision_of(recipe)["precision"])
    conditions = {"predicted": True, "kind": cache.kind, "tokens": context.cache_tokens, "batch": rows}
    if cache.kind == "sliding":
        conditions["most_tokens"] = cache.sinks + cache.window
    a_token = cache_size.bytes_a_token(*shape, cache, precision)
    at_end = rows * cache_size.bytes_of(context.cache_tokens, *shape, cache, precision)
    figures = (A_TOKEN.counted(a_token / 1e3, conditions), AT_END.counted(at_end / 1e6, conditions))
    return {figure.objective: figure for figure in figures}
