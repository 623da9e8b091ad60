"""Caches: what they hold, what they forget, their bytes and their limits."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from causal import MODELS, ROTARY, causal, prompts
from torch import Tensor

from spaces.errors import Infeasible
from spaces.generation.caches.quantised import TOKEN_GROUP, quantise
from spaces.generation.caches.sliding import rotated
from spaces.generation.causal_predict import stepped
from spaces.generation.padding import left_padding
from spaces.generation.program import CacheFullError, CacheSettings, greedy
from spaces.generation.torch_program import TorchProgram, cache_name, rotary_frequencies

HEADS, SIZE, LAYERS = 2, 16, 2  # of the tiny models
TOKEN = 2 * LAYERS * HEADS * SIZE * 4  # bytes of a token's keys and values in float32


def program(settings: CacheSettings, name: str = "llama") -> TorchProgram:
    return TorchProgram(causal(name), settings, "cpu")


def steps(opened: TorchProgram, ids: np.ndarray, mask: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, Any]:
    """Logits (N + 1, B, V) after a prompt and after each of N tokens (B, N); the cache."""
    logits, cache = opened.prefill(ids, mask)
    outputs = [logits, *(opened.decode(tokens[:, i], cache) for i in range(tokens.shape[1]))]
    return np.stack(outputs), cache


def test_a_static_cache_is_full_at_its_capacity_and_says_so() -> None:
    opened = program(CacheSettings("static", capacity=10))
    ids, mask = prompts((8, 5))
    _, cache = opened.prefill(ids, mask)
    for _ in range(2):
        opened.decode(np.array([4, 5]), cache)
    with pytest.raises(CacheFullError, match="a static cache of 10 tokens must hold prompt and answer, got 11 tokens"):
        opened.decode(np.array([4, 5]), cache)
    with pytest.raises(CacheFullError, match="got 11 tokens"):
        opened.prefill(*prompts((11,)))


@pytest.mark.parametrize("kind", ["dynamic", "static", "int8"])
def test_a_table_of_positions_bounds_a_cache_of_any_kind(kind: str) -> None:
    """Padding has no position."""
    opened = program(CacheSettings(kind, capacity=400), "gpt2")
    ids, mask = (np.pad(one, ((0, 0), (9, 0))) for one in prompts((256, 3)))
    _, cache = opened.prefill(ids, mask)
    with pytest.raises(CacheFullError, match="the model has positions for 256 tokens, got 257"):
        opened.decode(np.array([4, 5]), cache)
    with pytest.raises(CacheFullError, match="the model has positions for 256 tokens, got 257"):
        opened.prefill(*prompts((257,)))


def test_a_static_cache_is_allocated_once_for_prompts_of_as_many_rows() -> None:
    opened = program(CacheSettings("static", capacity=32))
    first = opened.prefill(*prompts((9,)))[1]
    _, second = steps(opened, *prompts((5,), seed=1), np.array([[7, 8]]))
    assert second.nbytes == 32 * TOKEN and second.length == 7
    assert second.keys[0].data_ptr() == first.keys[0].data_ptr()
    with pytest.raises(RuntimeError, match="a static cache holds one prompt at a time"):
        opened.decode(np.array([4]), first)
    fresh, _ = steps(program(CacheSettings("dynamic")), *prompts((5,), seed=1), np.array([[7, 8]]))
    again, _ = steps(opened, *prompts((5,), seed=1), np.array([[7, 8]]))
    np.testing.assert_allclose(again, fresh, atol=1e-5)


def test_a_static_cache_of_several_batch_sizes_has_the_bytes_of_the_largest() -> None:
    opened, addresses = program(CacheSettings("static", capacity=32)), []
    for rows, held in ((1, 1), (4, 4), (8, 8), (1, 8), (8, 8), (4, 8)):
        batch = prompts((9, 5, 7, 3, 9, 4, 2, 6)[:rows], seed=rows)
        tokens = np.random.default_rng(rows).integers(4, 97, (rows, 3))
        outputs, cache = steps(opened, *batch, tokens)
        np.testing.assert_allclose(outputs, steps(program(CacheSettings("dynamic")), *batch, tokens)[0], atol=1e-5)
        pairs = [*cache.keys, *cache.values]
        assert all(len(tensor) == rows for tensor in pairs)
        assert sum(tensor.untyped_storage().nbytes() for tensor in pairs) == cache.nbytes == held * 32 * TOKEN
        addresses.append([tensor.data_ptr() for tensor in pairs])
    assert addresses[2] == addresses[3] == addresses[4] == addresses[5], "a batch that is not larger allocates nothing"


def test_the_memory_of_a_smaller_batch_is_given_back() -> None:
    opened = program(CacheSettings("static", capacity=32))
    earlier = weakref.ref(opened.prefill(*prompts((9,)))[1].keys[0])
    opened.prefill(*prompts((9, 5)))
    gc.collect()
    assert earlier() is None


def test_after_a_batch_that_memory_is_too_short_for_a_smaller_one_is_allocated_alone() -> None:
    def short(*_: Any) -> Tensor:
        raise RuntimeError("out of memory")

    opened = program(CacheSettings("static", capacity=32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "new_zeros", short)
        with pytest.raises(RuntimeError, match="out of memory"):
            opened.prefill(*prompts((9, 5)))
    assert opened.prefill(*prompts((9,)))[1].nbytes == 32 * TOKEN


def test_a_prompt_of_another_batch_size_overwrites_the_one_before() -> None:
    opened = program(CacheSettings("static", capacity=32))
    first = opened.prefill(*prompts((9,)))[1]
    opened.prefill(*prompts((9, 5)))
    with pytest.raises(RuntimeError, match="a static cache holds one prompt at a time"):
        opened.decode(np.array([4]), first)


def test_a_dynamic_cache_has_the_bytes_of_its_tokens() -> None:
    _, cache = steps(program(CacheSettings("dynamic")), *prompts((8, 5)), np.array([[7, 8], [8, 9]]))
    assert cache.length == 10 and cache.nbytes == 2 * 10 * TOKEN


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, TOKEN_GROUP, 8), -2), ((2, 3, TOKEN_GROUP, 8), -1)])
@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_quantised_is_off_by_half_a_step_at_most(bits: int, shape: tuple[int, ...], axis: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([1e-3, 1, 30, 1, 1, 1, 1, 1]) + torch.tensor([0.0, 0, 200, -50, 0, 0, 0, 3])
    result = quantise(x, bits, axis)
    step = result.scale.float()
    assert ((result.values(torch.float32) - x).abs() <= step / 2 * (1 + 1e-3) + 1e-6).all()
    wanted = (x.amax(axis, keepdim=True) - x.amin(axis, keepdim=True)) / (2**bits - 1)
    assert (step <= wanted * 1.01 + x.abs().amax(axis, keepdim=True) / 500 / (2**bits - 1) + 1e-6).all()
    assert result.codes.numel() * 8 == x.numel() * bits


@pytest.mark.parametrize(("kind", "bytes_left", "tolerance"), [("int8", 0.42, 0.02), ("int4", 0.3, 0.35)])
def test_few_bits_save_bytes_and_move_logits_little(kind: str, bytes_left: float, tolerance: float) -> None:
    """Of a 200-token prompt and 40 steps; the difference is counted in standard deviations of the logits."""
    ids, mask = prompts((200, 180))
    tokens = np.random.default_rng(1).integers(4, 97, (2, 40))
    exact, whole = steps(program(CacheSettings("dynamic")), ids, mask, tokens)
    outputs, cache = steps(program(CacheSettings(kind, recent=16)), ids, mask, tokens)
    np.testing.assert_allclose(outputs[0], exact[0], atol=1e-5)  # a prompt attends to itself in full precision
    off = np.sqrt(((outputs - exact) ** 2).mean()) / exact.std()
    assert 0 < off < tolerance
    assert cache.length == whole.length == 240 and cache.nbytes < bytes_left * whole.nbytes


def test_the_newest_tokens_of_a_quantised_cache_are_in_full_precision() -> None:
    opened = program(CacheSettings("int8", recent=40))
    ids, mask = prompts((40 + TOKEN_GROUP - 1,))
    _, cache = opened.prefill(ids, mask)
    assert cache.nbytes == cache.length * TOKEN
    opened.decode(np.array([9]), cache)
    # Codes; scale and lowest value in float16.
    few = TOKEN_GROUP * TOKEN // 4 + LAYERS * HEADS * (SIZE + TOKEN_GROUP) * 4
    assert cache.nbytes == 40 * TOKEN + few


class Literal:
    """A sliding cache as the paper writes it: keys without positions, all of them turned to their slot at each step."""

    def __init__(self, sinks: int, window: int, frequencies: Tensor) -> None:
        self.sinks, self.window, self.frequencies = sinks, window, frequencies
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.first = 0

    def turn(self, keys: Tensor, first: int, sign: int) -> Tensor:
        parts = [
            rotated(keys[:, :, i : i + 1], torch.tensor([sign * (first + i)]), self.frequencies)
            for i in range(keys.shape[2])
        ]
        return torch.cat(parts, 2)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys = self.turn(keys, self.first, -1)
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self.layers[layer] = keys, values
        return self.turn(keys, 0, 1), values

    def cut(self) -> None:
        for layer, pair in self.layers.items():
            if pair[0].shape[2] > self.sinks + self.window:
                parts = [torch.cat([t[:, :, : self.sinks], t[:, :, -self.window :]], 2) for t in pair]
                self.layers[layer] = parts[0], parts[1]
        self.first = self.layers[0][0].shape[2]


def literal(name: str, ids: np.ndarray, tokens: np.ndarray, sinks: int, window: int) -> np.ndarray:
    """Logits (N + 1, 1, V) of one row."""
    model = causal(name)
    cache = Literal(sinks, window, rotary_frequencies(model))
    outputs = []
    for piece in (ids, *(tokens[:, i : i + 1] for i in range(tokens.shape[1]))):
        new, before = piece.shape[1], cache.first
        mask = torch.full((new, before + new), torch.finfo(torch.float32).min).triu(1 + before)[None, None]
        positions = torch.arange(before, before + new)[None]
        with torch.inference_mode():
            output = model(
                input_ids=torch.from_numpy(piece),
                attention_mask=mask,
                position_ids=positions,
                **{cache_name(model): cache},
            )
        outputs.append(output.logits[:, -1].numpy())
        cache.cut()
    return np.stack(outputs)


@pytest.mark.parametrize("length", [3, 9, 20])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_sliding_cache_counts_positions_within_itself(name: str, length: int) -> None:
    ids, mask = prompts((length,))
    tokens = np.random.default_rng(2).integers(4, 97, (1, 20))
    opened = program(CacheSettings("sliding", window=8, sinks=3), name)
    outputs, cache = steps(opened, ids, mask, tokens)
    np.testing.assert_allclose(outputs, literal(name, ids, tokens, 3, 8), atol=2e-4)
    assert cache.length == length + 20 and cache.nbytes == (3 + 8) * TOKEN


@pytest.mark.parametrize("name", ROTARY)
def test_padding_changes_nothing_in_a_sliding_cache(name: str) -> None:
    opened = program(CacheSettings("sliding", window=8, sinks=3), name)
    lengths = (20, 2, 12, 9)
    ids, mask = prompts(lengths)
    tokens = np.random.default_rng(2).integers(4, 97, (4, 20))
    together, _ = steps(opened, ids, mask, tokens)
    for row, length in enumerate(lengths):
        alone, _ = steps(opened, ids[row : row + 1, -length:], mask[row : row + 1, -length:], tokens[row : row + 1])
        np.testing.assert_allclose(together[:, row], alone[:, 0], atol=2e-4)


def test_a_sliding_cache_needs_rotary_positions() -> None:
    with pytest.raises(Infeasible, match="needs rotary embeddings of fixed frequencies; this model has embeddings of"):
        program(CacheSettings("sliding"), "gpt2")


@pytest.mark.parametrize("rows", [[[1, 1, 0]], [[0, 0, 0]], [[0, 1, 1], [1, 0, 1]]])
def test_prompts_must_be_padded_on_the_left(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="padded on the left, got a row"):
        left_padding(np.array(rows))


def test_greedy_reads_no_token_after_the_last() -> None:
    opened = program(CacheSettings("static", capacity=10))
    assert len(list(greedy(opened, *prompts((8,)), 3))) == 3


@pytest.mark.parametrize(
    "settings",
    [
        CacheSettings("dynamic"),
        CacheSettings("int8", recent=0),
        CacheSettings("int4", recent=40),
        CacheSettings("sliding", window=20, sinks=3),
    ],
    ids=lambda one: one.kind,
)
def test_scores_through_a_cache_are_those_of_single_steps(settings: CacheSettings) -> None:
    """Several tokens are read at once only where that changes nothing."""
    ids, _ = prompts((150, 150))
    opened = program(settings)
    alone = stepped(opened, ids, 1)
    scores = opened.scores(ids)
    assert (scores[:, 0] == 0).all()
    np.testing.assert_allclose(scores[:, 1:], alone[:, 1:], atol=1e-4)
    whole = program(CacheSettings()).scores(ids)
    exact = settings.exact_tokens or 150
    np.testing.assert_allclose(scores[:, : exact + 1], whole[:, : exact + 1], atol=1e-4)
    assert settings.lossy == bool(np.abs(scores - whole).max() > 1e-3)


def test_padding_behind_a_text_changes_none_of_its_scores() -> None:
    ids, _ = prompts((150, 150))
    for settings in (CacheSettings("int4", recent=0), CacheSettings("sliding", window=20)):
        padded = ids.copy()
        padded[0, 110:] = 1
        np.testing.assert_allclose(
            program(settings).scores(padded)[0, :110], program(settings).scores(ids)[0, :110], atol=1e-4
        )


def test_a_family_that_wants_a_cache_of_its_own_is_infeasible() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    bloom = AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", **sizes)).eval()
    with pytest.raises(Infeasible, match="this family asks its cache for get_seq_length, which no cache here has"):
        TorchProgram(bloom, CacheSettings("int8"), "cpu").prefill(*prompts((9,)))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_caches_have_heads_of_any_size(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **{**MODELS["llama"][1], "head_dim": 14})
    model = AutoModelForCausalLM.from_config(config).eval()
    scores = [
        TorchProgram(model, one, "cpu").scores(prompts((90,))[0]) for one in (CacheSettings(), CacheSettings(kind))
    ]
    np.testing.assert_allclose(*scores, atol=0.2)
