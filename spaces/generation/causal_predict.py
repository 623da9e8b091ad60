"""A causal language model as a `Predict`: it scores texts, and it generates."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spaces.errors import Infeasible
from spaces.generation.program import (
    CACHE_KINDS,
    CacheSettings,
    Program,
    ScoringProgram,
    greedy,
    open_program,
)
from spaces.generation.speculation import Speculation
from spaces.knob import Plan
from spaces.runtime import Context, Predict

#: Input of a batch that generates: the number of tokens to generate, the same for each row, (B,) int64.
NEW_TOKENS = "new_tokens"
#: Input of a batch whose likelihoods are computed token by token: tokens of each row that the prompt has, (B,) int64.
STEPPED = "stepped"
#: The output of scoring: (B, L) float32, the log probability (nats) of each token given those before it.
LOG_LIKELIHOOD = "log_likelihood"


class CausalPredict:
    """A `Predict` of a causal language model.

    A batch of input_ids and attention_mask (B, L) gives "log_likelihood" (B, L), through the cache where that is lossy.
    One that has `new_tokens` beside them is a generation: prompts padded on the left, and "tokens" (B, T), the most
    likely continuation. One that has `stepped` gives "log_likelihood" again, computed as a generation computes it: the
    prompt in one call, then a token at a time through the cache; rows have no padding.

    The program that generates is opened at once, because it is timed; the one that scores is opened on first use.
    """

    def __init__(self, program: Program, open_scoring: Callable[[], Predict], cache: CacheSettings) -> None:
        """Raises Infeasible where the cache is lossy and the program cannot score through it."""
        if cache.lossy and not isinstance(program, ScoringProgram):
            raise Infeasible(f"the loss of this cache cannot be measured: {type(program).__name__} does not score")
        self.program, self._open_scoring, self._cache = program, open_scoring, cache
        self._scoring: Predict | None = None
        #: `time.perf_counter()` after each token of the last generation.
        self.token_times: list[float] = []

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if NEW_TOKENS in batch:
            return {"tokens": self._generated(batch)}
        if STEPPED in batch:
            return {LOG_LIKELIHOOD: stepped(self.program, batch["input_ids"], int(batch[STEPPED][0]))}
        if self._cache.lossy:
            assert isinstance(self.program, ScoringProgram)
            return {LOG_LIKELIHOOD: self.program.scores(batch["input_ids"]) * (batch["attention_mask"] != 0)}
        return self.scoring(batch)

    @property
    def scoring(self) -> Predict:
        """The program that scores, opened on first use."""
        if self._scoring is None:
            self._scoring = self._open_scoring()
        return self._scoring

    def _generated(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        self.token_times = []
        ids, mask, count = batch["input_ids"], batch["attention_mask"], int(batch[NEW_TOKENS][0])
        if self._cache.speculates and len(ids) == 1 and mask.all():
            return self._speculated(ids, count)
        tokens = []
        for chosen in greedy(self.program, ids, mask, count):
            self.token_times.append(time.perf_counter())
            tokens.append(chosen)
        return np.stack(tokens, axis=1)

    def _speculated(self, ids: np.ndarray, count: int) -> np.ndarray:
        speculation = Speculation(self.program)
        tokens, times, calls = [], [], []
        for chosen in speculation(ids, count):
            times.append(time.perf_counter())
            calls.append(speculation.calls)
            tokens.append(chosen)
        self.token_times = evenly(times, calls)
        return np.stack(tokens, axis=1)


def evenly(times: Sequence[float], calls: Sequence[int]) -> list[float]:
    """Times (T,) of tokens as if those of one call came one after the other, each after an equal share of it.

    `calls` (T,) are the numbers of their calls, which rise; the first call gives one token.
    """
    spread = [times[0]]
    for _, group in itertools.groupby(range(1, len(times)), key=lambda token: calls[token]):
        places = list(group)
        spread += np.linspace(spread[-1], times[places[-1]], len(places) + 1)[1:].tolist()
    return spread


def stepped(program: Program, input_ids: np.ndarray, prompt: int) -> np.ndarray:
    """The log probability (B, L) float32 of each token of `input_ids` (B, L), through the cache.

    The first `prompt` tokens of each row are read in one call, each of the others in a call of its own. The values of
    the prompt are NaN, because a program gives the logits of the last position only.
    """
    likelihood = np.full(input_ids.shape, np.nan, dtype=np.float32)
    logits, cache = program.prefill(input_ids[:, :prompt], np.ones_like(input_ids[:, :prompt]))
    for position in range(prompt, input_ids.shape[1]):
        tokens = input_ids[:, position]
        likelihood[:, position] = _log_softmax(logits)[np.arange(len(tokens)), tokens]
        if position + 1 < input_ids.shape[1]:
            logits = program.decode(tokens, cache)
    return likelihood


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def open_causal(
    folder: Path,
    open_scoring: Callable[[], Predict],
    runtime: str,
    plan: Plan,
    context: Context,
    cache: CacheSettings | None = None,
) -> CausalPredict:
    """The stored model under a runtime, with this cache for `context.cache_tokens`, or the runtime's default one.

    Raises Infeasible.
    """
    settings = default_cache(runtime, context) if cache is None else replace(cache, capacity=context.cache_tokens)
    program = open_program(folder, runtime, plan, settings, context)
    return CausalPredict(program, open_scoring, settings)


def default_cache(runtime: str, context: Context) -> CacheSettings:
    """The runtime's default kind of cache."""
    from spaces import registry
    from spaces.generation.program import GeneratingRuntime

    opener = registry.runtime_named(runtime)
    kinds = opener.cache_kinds(context) if isinstance(opener, GeneratingRuntime) else ()
    return CacheSettings(kinds[0] if kinds else CACHE_KINDS[0], context.cache_tokens)
