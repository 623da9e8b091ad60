"""A causal language model as the program opens it: scores, generations, and scores through the cache."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from causal import MODELS, prompts, stored

from spaces import build
from spaces.cache_settings import CacheSettings
from spaces.errors import Infeasible
from spaces.generation.causal_predict import LOG_LIKELIHOOD, NEW_TOKENS, STEPPED, CausalPredict, evenly
from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes.eager import Eager

CONTEXT = Context("cpu", threads=1, cache_tokens=32)
FP32 = {"precision": "fp32"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> CausalPredict:
    model = build.open_predict(stored(tmp_path_factory.mktemp("llama"), "llama"), "eager", FP32, CONTEXT)
    assert isinstance(model, CausalPredict)
    return model


def test_a_likelihood_through_the_cache_is_that_of_the_whole_text(opened: CausalPredict) -> None:
    ids, mask = prompts((9, 9))
    whole = opened({"input_ids": ids, "attention_mask": mask})[LOG_LIKELIHOOD]
    stepped = opened({"input_ids": ids, "attention_mask": mask, STEPPED: np.full(2, 4)})[LOG_LIKELIHOOD]
    assert np.isnan(stepped[:, :4]).all()
    np.testing.assert_allclose(stepped[:, 4:], whole[:, 4:], atol=1e-4)


def test_a_generation_has_a_time_for_each_of_its_tokens(opened: CausalPredict, tmp_path: Path) -> None:
    ids, mask = prompts((9, 3))
    began = time.perf_counter()
    tokens = opened({"input_ids": ids, "attention_mask": mask, NEW_TOKENS: np.full(2, 6)})["tokens"]
    ended = time.perf_counter()
    assert tokens.shape == (2, 6)
    times = [began, *opened.token_times, ended]
    assert len(times) == 8 and times == sorted(times)


def test_a_speculative_generation_gives_the_same_tokens(opened: CausalPredict, tmp_path: Path) -> None:
    cache = CacheSettings("static", speculation="prompt_lookup")
    speculative = build.open_predict(stored(tmp_path, "llama"), "eager", FP32, CONTEXT, cache)
    assert isinstance(speculative, CausalPredict)
    for lengths in ((9,), (9, 3)):
        ids, mask = prompts(lengths)
        batch = {"input_ids": ids, "attention_mask": mask, NEW_TOKENS: np.full(len(lengths), 20)}
        np.testing.assert_array_equal(speculative(batch)["tokens"], opened(batch)["tokens"])
        assert len(speculative.token_times) == 20
        assert speculative.token_times == sorted(speculative.token_times)


def test_the_tokens_of_a_call_share_its_time() -> None:
    assert evenly([3.0, 5.0, 9.0, 9.0, 9.0, 9.0, 10.0], [0, 1, 2, 2, 2, 2, 3]) == [3, 5, 6, 7, 8, 9, 10]
    assert evenly([3.0], [0]) == [3]


def test_what_scores_is_opened_when_it_is_needed_and_all_of_it_for_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, open_eager = stored(tmp_path, "llama"), Eager.open
    openings: list[Path] = []

    def noting(self: Eager, folder: Path, plan: Plan, context: Context) -> Predict:
        openings.append(folder)
        return open_eager(self, folder, plan, context)

    monkeypatch.setattr(Eager, "open", noting)
    lazy = build.open_predict(folder, "eager", FP32, CONTEXT)
    assert len(openings) == 0
    ids, mask = prompts((9, 9))
    for _ in range(2):
        lazy({"input_ids": ids, "attention_mask": mask})
        assert len(openings) == 1
    build.open_whole(folder, "eager", FP32, CONTEXT)
    assert len(openings) == 2


def test_a_runtime_that_does_not_generate_says_so(tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match="aot_inductor does not generate text"):
        build.open_predict(stored(tmp_path, "llama"), "aot_inductor", FP32, CONTEXT)


@pytest.mark.parametrize(("name", "sizes", "multiple"), [("llama", {"head_dim": 24}, 16), ("gpt2", {"n_embd": 48}, 8)])
def test_heads_that_the_attention_of_onnx_does_not_take_are_infeasible(
    name: str, sizes: dict[str, int], multiple: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "odd", (MODELS[name][0], {**MODELS[name][1], **sizes}))
    with pytest.raises(Infeasible, match=f"the size of a head must be a multiple of {multiple} in this family, got "):
        build.open_predict(stored(tmp_path, "odd"), "onnx", FP32, CONTEXT)
