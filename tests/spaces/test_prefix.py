"""Beginnings that prompts share: the same answers, fewer tokens read, a bound in bytes."""

from __future__ import annotations

import numpy as np
import pytest
from causal import MODELS, causal, generated, prompts

from spaces.generation.prefix import PrefixProgram
from spaces.generation.program import CacheSettings, greedy
from spaces.generation.torch_program import TorchProgram

TOKEN = 2 * 2 * 2 * 16 * 4  # bytes of a token's keys and values in a tiny Llama


def program(settings: CacheSettings, most_bytes: int = 10**6, name: str = "llama") -> PrefixProgram:
    return PrefixProgram(TorchProgram(causal(name), settings, "cpu"), most_bytes)


def family(*ends: int) -> list[np.ndarray]:
    """Prompts of 12 equal tokens and so many of their own."""
    start = prompts((12,))[0]
    return [np.concatenate([start, prompts((n,), seed=n)[0]], 1) for n in ends]


@pytest.mark.parametrize("settings", [CacheSettings("dynamic"), CacheSettings("static", capacity=64)])
@pytest.mark.parametrize("name", MODELS)
def test_a_shared_beginning_changes_no_greedy_output(name: str, settings: CacheSettings) -> None:
    opened = program(settings, name=name)
    for ids in (*family(5, 3, 9), family(5)[0], prompts((4,), seed=7)[0]):
        mask = np.ones_like(ids)
        tokens = np.stack(list(greedy(opened, ids, mask, 8)), 1)
        np.testing.assert_array_equal(tokens, generated(causal(name), ids, mask, 8))
    assert opened.reused == 12 + 12 + 16  # of a prompt that is known as a whole, the last token is read again


def test_what_was_used_longest_ago_goes_first() -> None:
    opened = program(CacheSettings("dynamic"), most_bytes=45 * TOKEN)
    first, second, third = (prompts((20,), seed=seed)[0] for seed in (1, 2, 3))
    for ids in (first, second, first, third):
        opened.prefill(ids, np.ones_like(ids))
        assert opened.nbytes <= 45 * TOKEN
    assert opened.reused == 19
    opened.prefill(first, np.ones_like(first))
    assert opened.reused == 2 * 19
    opened.prefill(second, np.ones_like(second))
    assert opened.reused == 2 * 19


def test_a_prompt_that_does_not_fit_removes_no_other() -> None:
    opened = program(CacheSettings("dynamic"), most_bytes=30 * TOKEN)
    first, long = prompts((20,), seed=1)[0], prompts((40,), seed=2)[0]
    for ids in (first, long, first):
        opened.prefill(ids, np.ones_like(ids))
    assert opened.reused == 19 and opened.nbytes == 20 * TOKEN


def test_a_longer_prompt_stands_for_its_beginning_and_batches_are_not_kept() -> None:
    opened = program(CacheSettings("dynamic"))
    long = family(5)[0]
    for ids in (long[:, :8], long):
        opened.prefill(ids, np.ones_like(ids))
    assert opened.nbytes == 17 * TOKEN
    opened.prefill(*prompts((9, 3)))
    assert opened.nbytes == 17 * TOKEN


def test_a_cache_that_forgets_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be dynamic or static .* this model's is neither"):
        program(CacheSettings("sliding"))
