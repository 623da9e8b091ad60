"""Tiny random causal language models, and prompts for them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spaces import registry, slicing
from spaces.base import Base, skeleton, write_folder

VOCABULARY = 97
_SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
_SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256}
_SHAPE |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1, "attention_dropout": 0.0}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 256}
_GPT2 |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
_TYPES = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 6, "use_sliding_window": True}
#: Model type and configuration.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**_SHAPE, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {**_SHAPE, **_TYPES}),
    "qwen3": ("qwen3", _SHAPE),
    "mistral": ("mistral", {**_SHAPE, "sliding_window": 6}),
    "gpt2": ("gpt2", _GPT2),
}
ROTARY = tuple(name for name in MODELS if name != "gpt2")


@functools.cache
def causal(name: str) -> nn.Module:
    """A random model in eval mode whose choices are far apart."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = MODELS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings), dtype=torch.float32)
        shake(model)
    return model.eval()  # type: ignore[no-any-return]


def shake(model: nn.Module) -> None:
    """Random weights, positions louder than words: a tied head would say the last word again and again."""
    for name, parameter in model.named_parameters():
        spread = (8 if "wpe" in name else 2) * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.add_(torch.randn(parameter.shape) * spread)


def stored(folder: Path, name: str = "llama") -> Path:
    """A folder of a model whose second block has fewer heads and neurons than its first."""
    from transformers import AutoConfig

    model_type, settings = MODELS[name]
    config = AutoConfig.for_model(model_type, **settings)
    base = Base(f"tiny/{name}", "main", "causal", (), ("input_ids", "attention_mask"), config.to_dict())
    groups = settings.get("num_key_value_heads", settings.get("n_head"))
    units = {"heads": (range(groups), range(1)), "neurons": (range(48), range(20))}
    plan = {unit: [slicing.encode_ranges(list(one)) for one in indices] for unit, indices in units.items()}
    plan["tuning"] = "none"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = skeleton(base)
        registry.axis_named("prune").reshape(model, plan)
        shake(model)
    write_folder(folder, model, base, {"prune": plan})
    return folder


def prompts(lengths: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of these lengths, padded to the longest on the left: ids (B, L), mask (B, L)."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, VOCABULARY, size=(len(lengths), max(lengths)))
    mask = np.arange(max(lengths))[None, ::-1] < np.array(lengths)[:, None]
    return np.where(mask, ids, 1), mask.astype(np.int64)


def generated(model: nn.Module, ids: np.ndarray, mask: np.ndarray, new_tokens: int, **settings: Any) -> np.ndarray:
    """What transformers' own greedy `generate` adds, (B, new_tokens). End tokens do not stop it."""
    tokens = model.generate(  # type: ignore[operator]
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        **settings,
    )
    return tokens[:, ids.shape[1] :].numpy()  # type: ignore[no-any-return]
