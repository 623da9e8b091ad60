"""Programs in torch: the greedy output of transformers' own generate, under every cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from causal import MODELS, ROTARY, causal, generated, prompts, stored

from spaces.generation.program import CacheSettings, greedy, open_program
from spaces.generation.torch_program import TorchProgram
from spaces.runtime import Context
from spaces.runtimes import torch_predict

CPU = Context("cpu", threads=1)
FP32 = {"precision": "fp32"}

NEW = 12
UNEQUAL = (9, 3, 14)
#: Exact as long as nothing is forgotten or quantised.
EXACT = (
    CacheSettings("dynamic"),
    CacheSettings("static", capacity=64),
    CacheSettings("int8", recent=64),
    CacheSettings("int4", recent=64),
)


def program(name: str, settings: CacheSettings = EXACT[0]) -> TorchProgram:
    return TorchProgram(causal(name), settings, "cpu")


def answers(opened: TorchProgram, ids: np.ndarray, mask: np.ndarray, new: int = NEW) -> np.ndarray:
    return np.stack(list(greedy(opened, ids, mask, new)), 1)


@pytest.mark.parametrize("settings", EXACT, ids=lambda s: s.kind)
@pytest.mark.parametrize("name", MODELS)
def test_greedy_output_is_that_of_generate(name: str, settings: CacheSettings) -> None:
    opened = program(name, settings)
    for lengths in ((7,), UNEQUAL, (1, 1), (40,)):
        ids, mask = prompts(lengths)
        expected = generated(causal(name), ids, mask, NEW)
        assert len(np.unique(expected)) > 2, "an answer of one token tells nothing"
        np.testing.assert_array_equal(answers(opened, ids, mask), expected)


@pytest.mark.parametrize("name", ROTARY)
def test_a_sliding_cache_is_exact_until_it_is_full(name: str) -> None:
    ids, mask = prompts(UNEQUAL)
    opened = program(name, CacheSettings("sliding", window=22, sinks=4))
    np.testing.assert_array_equal(answers(opened, ids, mask), generated(causal(name), ids, mask, NEW))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_cut_model_generates_as_it_does_without_a_cache(name: str, tmp_path: Path) -> None:
    """Blocks have other numbers of heads and neurons."""
    folder = stored(tmp_path, name)
    opened = open_program(folder, "eager", FP32, {"kind": "static", "capacity": 64}, CPU)
    model = torch_predict.causal_for(folder, FP32, CPU, "eager")
    ids, mask = prompts((9, 9))
    tokens = np.stack(list(greedy(opened, ids, mask, NEW)), 1)
    sequence = torch.from_numpy(ids)
    for step in range(NEW):
        with torch.inference_mode():
            best = model(input_ids=sequence, use_cache=False).logits[:, -1].argmax(-1)
        assert best.tolist() == tokens[:, step].tolist()
        sequence = torch.cat([sequence, best[:, None]], 1)


def test_a_model_in_bf16_keeps_its_rotary_frequencies(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    exact, rounded = (torch_predict.causal_for(folder, {"precision": p}, CPU, "eager") for p in ("fp32", "bf16"))
    assert rounded.lm_head.weight.dtype == torch.bfloat16
    torch.testing.assert_close(
        rounded.base_model.rotary_emb.inv_freq, exact.base_model.rotary_emb.inv_freq, rtol=0, atol=0
    )
