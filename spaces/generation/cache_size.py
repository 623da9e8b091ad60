"""Bytes of key-value caches, from the shape of a model and the settings of its cache."""

from __future__ import annotations

from collections.abc import Sequence

from spaces.axes.bits import TORCH_INT4_RUNTIMES
from spaces.generation.program import QUANTISED_CACHES, TOKEN_GROUP, CacheSettings

#: Bytes of an unquantised number, by precision, where it is not float32.
NUMBER_BYTES = {"bf16": 2, "fp16": 2, "fp8": 2}
SCALE = 4  # bytes of a scale and a lowest value in float16


def cached_precision(runtime: str, precision: str) -> str:
    """The precision of the numbers in an unquantised cache of a model in `precision` under this runtime."""
    return "bf16" if precision == "int4" and runtime in TORCH_INT4_RUNTIMES else precision


def bytes_a_token(heads: Sequence[int], head_dim: int, cache: CacheSettings, precision: str) -> float:
    """Bytes of the keys and values of one token of a row in its final form in the cache.

    Args:
        heads: key-value heads by block.
        precision: in which unquantised caches store numbers (`cached_precision`).

    A quantised cache has a scale for each channel of the keys of GROUP tokens, and for the values of each token and
    head.
    """
    if cache.kind not in QUANTISED_CACHES:
        return float(sum(heads) * 2 * head_dim * NUMBER_BYTES.get(precision, 4))
    bits = int(cache.kind.removeprefix("int"))
    return sum(heads) * (2 * head_dim * bits / 8 + head_dim * SCALE / TOKEN_GROUP + SCALE)


def cache_bytes(tokens: int, heads: Sequence[int], head_dim: int, cache: CacheSettings, precision: str) -> float:
    """Bytes of a row's cache after `tokens` tokens; for a static one, the allocated bytes."""
    whole = bytes_a_token(heads, head_dim, CacheSettings(), precision)
    if cache.kind == "static":
        return cache.capacity * whole
    if cache.kind == "sliding":
        return min(tokens, cache.sinks + cache.window) * whole
    if cache.kind not in QUANTISED_CACHES:
        return tokens * whole
    older = max(0, tokens - cache.recent) // TOKEN_GROUP * TOKEN_GROUP
    return older * bytes_a_token(heads, head_dim, cache, precision) + (tokens - older) * whole
