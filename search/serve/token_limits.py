"""How many tokens of prompt and answer a language model has room for, and the tokens that end an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.deliver.best_config import BestConfig
from spaces import build
from spaces.base import read_config
from spaces.cache_settings import CacheSettings
from spaces.generation.causal_predict import default_cache
from spaces.runtime import Context

CAPACITY = 2048  # tokens of a cache of a fixed size, where the model's context is longer


def used_cache(record: BestConfig, context: Context) -> CacheSettings:
    """The cache that an exported model generates with: of its record, or the default one of its runtime."""
    return build.cache_of(record.recipe) or default_cache(record.recipe.runtime.name, context)


def most_tokens(folder: Path, record: BestConfig, context: Context) -> int:
    """Most tokens of prompt and answer together: of the model's context, and of a cache of a fixed size."""
    length = context_length(read_config(folder)[0].config)
    return min(length, CAPACITY) if used_cache(record, context).kind == "static" else length


def is_endless(cache: CacheSettings, limit: int) -> bool:
    """Whether an answer may go on beyond `limit` tokens of prompt and answer.

    Under a sliding cache tokens attend to what is in the window, whose positions are those within it.
    """
    return cache.kind == "sliding" and cache.sinks + cache.window < limit


def context_length(config: Mapping[str, Any]) -> int:
    """The context length of a model in tokens, from its transformers configuration."""
    # (GPT-2 calls them n_positions.)
    return int(config.get("max_position_embeddings") or config.get("n_positions") or CAPACITY)


def end_tokens(folder: Path, config: Mapping[str, Any], tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those of generation_config.json, of the configuration and of the tokenizer."""
    file = folder / "generation_config.json"
    generation = json.loads(file.read_text("utf-8")) if file.exists() else {}
    sources = [generation.get("eos_token_id"), config.get("eos_token_id"), tokenizer.eos_token_id]
    listed = [one for ids in sources for one in (ids if isinstance(ids, list) else [ids])]
    return frozenset(int(one) for one in listed if one is not None)
