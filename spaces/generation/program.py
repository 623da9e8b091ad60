"""Programs of causal language models: a prompt fills a key-value cache, then each step reads one token per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from spaces.cache_settings import CACHE_KINDS, LOSSY, QUANTISED_CACHES, TOKEN_GROUP, CacheSettings
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context, Runtime

__all__ = [
    "CACHE_KINDS",
    "LOSSY",
    "QUANTISED_CACHES",
    "TOKEN_GROUP",
    "Cache",
    "CacheFullError",
    "CacheSettings",
    "GeneratingRuntime",
    "KeysAndValues",
    "Program",
    "ResumingProgram",
    "RewindingProgram",
    "ScoringProgram",
    "decoded",
    "greedy",
    "open_program",
]


#: Keys and values (1, heads, T, D) of one prompt by block, as arrays of the program that gave them.
KeysAndValues = Mapping[int, tuple[Any, Any]]


class CacheFullError(ValueError):
    """A prompt or a step does not fit into a cache of a fixed capacity."""


class Cache(Protocol):
    """Keys and values of B rows. Each program has its own type of cache; steps change it in place."""

    @property
    def length(self) -> int:
        """Tokens seen by each row, left padding included."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that hold keys and values now (all that is allocated, of a static cache)."""
        ...


class Program(Protocol):
    """An opened causal language model. V is the size of its vocabulary."""

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, Cache]:
        """Read prompts (B, L) int64, padded on the left where the mask (B, L) is 0.

        Returns logits (B, V) float32 of the last position alone, and a new cache.

        Raises:
            CacheFullError: the prompt is longer than the cache can hold.
        """
        ...

    def decode(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        """Read one more token a row, (B,) int64; logits (B, V) float32 of what follows. The cache grows by one.

        Raises:
            CacheFullError: the cache holds all that it can.
        """
        ...


@runtime_checkable
class ScoringProgram(Protocol):
    """A program that also scores texts through its cache."""

    def scores(self, input_ids: np.ndarray) -> np.ndarray:
        """The log probability (B, L) float32 of each token of texts (B, L) as token by token through the cache.

        Of the first it is 0. What follows a text as padding changes nothing before it.
        """
        ...


@runtime_checkable
class RewindingProgram(Program, Protocol):
    """A program that reads several tokens of a row in one call, and can remove the last ones from its cache again."""

    @property
    def rewinds(self) -> bool:
        """Whether its kind of cache can do so: one that quantises or forgets tokens cannot."""
        ...

    def extend(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        """`decode` of several tokens (1, N) int64; logits (1, N, V) float32 after each. The cache grows by N.

        Raises:
            CacheFullError: the cache cannot hold so many more.
        """
        ...

    def truncate(self, cache: Any, length: int) -> None:
        """Forget the tokens from number `length` on."""
        ...


@runtime_checkable
class ResumingProgram(RewindingProgram, Protocol):
    """A program whose prompts may begin with keys and values of an earlier one."""

    def stored(self, cache: Any) -> KeysAndValues:
        """What a cache of one row holds, in memory that later steps do not change."""
        ...

    def resume(self, layers: KeysAndValues, prefix_length: int, input_ids: np.ndarray) -> tuple[np.ndarray, Cache]:
        """`prefill` of one prompt (1, L) whose first `prefix_length` tokens, fewer than L, have these keys and values.

        Raises:
            CacheFullError: the prompt is longer than the cache can hold.
        """
        ...


@runtime_checkable
class GeneratingRuntime(Runtime, Protocol):
    """A runtime that also opens causal language models for generation."""

    def generating_precisions(self, context: Context) -> tuple[str, ...]:
        """The precisions of causal language models, scored or generating, that it has kernels for on this device."""
        ...

    def cache_kinds(self, context: Context) -> tuple[str, ...]:
        """The kinds of cache that it supports on this device, its default first."""
        ...

    def open_program(self, folder: Path, plan: Plan, settings: CacheSettings, context: Context) -> Program:
        """The stored model with a causal head under the precision `plan`. Raises Infeasible."""
        ...


def open_program(
    folder: Path, runtime: str, plan: Plan, settings: CacheSettings | Mapping[str, Any], context: Context
) -> Program:
    """The stored model under a runtime. Picklable by name, so that a worker process can run it.

    Raises:
        Infeasible: the runtime does not generate, or does not support this cache or precision here.
        ValueError: an unknown kind of cache.
    """
    from spaces import registry

    chosen = settings if isinstance(settings, CacheSettings) else CacheSettings(**settings)
    opener = registry.runtime_named(runtime)
    if not isinstance(opener, GeneratingRuntime):
        raise Infeasible(f"{runtime} does not generate text")
    kinds = ", ".join(opener.cache_kinds(context))
    if not kinds:
        raise Infeasible(f"{runtime} does not generate text on {context.device}")
    if chosen.kind not in opener.cache_kinds(context):
        raise Infeasible(f"{runtime} has no {chosen.kind} cache on {context.device}; it has {kinds}")
    return opener.open_program(folder, plan, chosen, context)


def greedy(
    program: Program, input_ids: np.ndarray, attention_mask: np.ndarray, new_tokens: int
) -> Iterator[np.ndarray]:
    """Greedy decoding, one step at a time: `new_tokens` arrays (B,) int64. End tokens do not stop it."""
    return decoded(program, input_ids, attention_mask, new_tokens, lambda logits: np.asarray(logits.argmax(-1)))


def decoded(
    program: Program,
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    new_tokens: int,
    choose: Callable[[np.ndarray], np.ndarray],
) -> Iterator[np.ndarray]:
    """As `greedy`, with tokens (B,) that `choose` takes from logits (B, V)."""
    logits, cache = program.prefill(input_ids, attention_mask)
    for step in range(new_tokens):
        tokens = choose(logits)
        yield tokens
        if step + 1 < new_tokens:
            logits = program.decode(tokens, cache)
