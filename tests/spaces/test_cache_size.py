"""Predicted bytes of caches are those that caches hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from causal import MODELS, prompts, stored

from search.space.stored_sizes import key_heads
from spaces import build
from spaces.generation.cache_size import bytes_a_token, cache_bytes
from spaces.generation.causal_predict import CausalPredict
from spaces.generation.program import CACHE_KINDS, CacheSettings
from spaces.runtime import Context


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp(request.param), request.param)


def test_heads_are_those_that_are_left_in_each_block(folder: Path) -> None:
    shape = key_heads(folder)
    assert shape is not None
    heads, size = shape
    assert heads == ((4, 1) if "gpt2" in folder.name else (2, 1)) and size == (8 if "gpt2" in folder.name else 16)


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_a_cache_has_the_bytes_that_are_predicted(kind: str, folder: Path) -> None:
    if kind == "sliding" and "gpt2" in folder.name:
        pytest.skip("needs rotary positions")
    cache = CacheSettings(kind, recent=40, window=64)
    context = Context("cpu", threads=1, cache_tokens=150)
    opened = build.open_predict(folder, "eager", {"precision": "fp32"}, context, cache)
    assert isinstance(opened, CausalPredict)
    ids, mask = prompts((120, 120))
    logits, held = opened.program.prefill(ids, mask)
    opened.program.decode(logits.argmax(-1), held)
    heads, size = key_heads(folder) or ((), 0)
    settings = CacheSettings(kind, capacity=150, recent=40, window=64)
    assert held.nbytes == 2 * cache_bytes(121, heads, size, settings, "fp32")
    whole, few = (bytes_a_token(heads, size, one, "fp32") for one in (CacheSettings(), settings))
    assert whole == 8 * size * sum(heads)
    assert (few < whole / 2) == (kind in ("int8", "int4"))
    assert bytes_a_token(heads, size, CacheSettings(), "bf16") == whole / 2


def test_a_lossy_cache_scores_through_itself(folder: Path) -> None:
    context = Context("cpu", threads=1, cache_tokens=64)
    ids, mask = prompts((140, 140))
    mask[1, 130:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    plain, int4 = (
        build.open_predict(folder, "eager", {"precision": "fp32"}, context, cache)(batch)["log_likelihood"]
        for cache in (None, CacheSettings("int4", recent=0))
    )
    assert plain.shape == int4.shape == ids.shape and (int4[1, 130:] == 0).all()
    np.testing.assert_allclose(int4[:, :33], plain[:, :33], atol=1e-3)
    assert np.abs(int4[:, 34:130] - plain[:, 34:130]).max() > 1e-2
