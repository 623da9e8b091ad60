"""What an exported causal language model generates, compared with what it generated when it was exported.

Scores of texts do not go through the cache that a generation fills. So the record also has the most likely answer to a
fixed prompt, and the log probability of each of its tokens, computed one at a time through the cache of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from objectives.bench import Batch
from objectives.process import Remote
from spaces.generation.causal_predict import LOG_LIKELIHOOD, NEW_TOKENS, STEPPED
from spaces.runtime import Context

#: Most tokens of the prompt and of its answer: where the cache of the recipe holds fewer, each has half.
CHECKED_PROMPT, CHECKED_ANSWER = 24, 16


def tokens(context: Context) -> int:
    """Tokens of prompt and answer together, at most the capacity of the cache."""
    return min(context.cache_tokens, CHECKED_PROMPT + CHECKED_ANSWER)


GENERATED, GENERATED_LIKELIHOOD = "generated", "generated_log_likelihood"  # names in the file of the reference


def generate(bench: Remote, probe: Batch, context: Context) -> dict[str, np.ndarray]:
    """The most likely answer (T,) to the beginning of the first row of `probe`, and its log probabilities (T,)."""
    answer = min(CHECKED_ANSWER, context.cache_tokens // 2)
    prompt = probe["input_ids"][:1, : min(CHECKED_PROMPT, context.cache_tokens - answer)].astype(np.int64)
    batch = {"input_ids": prompt, "attention_mask": np.ones_like(prompt), NEW_TOKENS: np.array([answer])}
    [answered_batch] = bench.call("predict", [batch], timeout_s=600)
    return {
        GENERATED: answered_batch["tokens"][0],
        GENERATED_LIKELIHOOD: _through_the_cache(bench, prompt, answered_batch["tokens"]),
    }


def largest_difference(bench: Remote, probe: Batch, context: Context, wanted: Mapping[str, np.ndarray]) -> float:
    """Largest difference of log probabilities from the recorded ones, of the recorded answer's tokens.

    Where another token is chosen first, its advantage in log probability over the recorded token counts too: two nearly
    equally likely tokens may change places, and the answers are not comparable after that.
    """
    answer, recorded = wanted[GENERATED], wanted[GENERATED_LIKELIHOOD]
    prompt = probe["input_ids"][:1, : min(CHECKED_PROMPT, context.cache_tokens - len(answer))].astype(np.int64)
    now = _through_the_cache(bench, prompt, answer[None])
    largest = float(np.abs(now - recorded).max())
    generated = generate(bench, probe, context)
    other = np.flatnonzero(generated[GENERATED] != answer)
    return largest if not len(other) else max(largest, float(generated[GENERATED_LIKELIHOOD][other[0]] - now[other[0]]))


def _through_the_cache(bench: Remote, prompt: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Log probabilities (T,) of an answer (1, T) after a prompt (1, L)."""
    ids = np.concatenate([prompt, answer], axis=1)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), STEPPED: np.array([prompt.shape[1]])}
    [answered_batch] = bench.call("predict", [batch], timeout_s=600)
    likelihood: np.ndarray = answered_batch[LOG_LIKELIHOOD][0, prompt.shape[1] :]
    return likelihood
