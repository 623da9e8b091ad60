"""Causal language models of every family whose graphs are tested: whole, and cut by the axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from spaces.axes.low_rank import LowRank
from spaces.fused import take_apart
from spaces.heads import Causal

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
SCALED = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED |= {"original_max_position_embeddings": 32}
WINDOWS = {"use_sliding_window": True, "sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**SHAPE, "tie_word_embeddings": True}),
    "llama, scaled positions and biases": ("llama", {**SHAPE, "rope_parameters": SCALED, "attention_bias": True}),
    "qwen2": ("qwen2", {**SHAPE, **WINDOWS}),
    "qwen3": ("qwen3", {**SHAPE, "head_dim": 32}),
    "mistral": ("mistral", {**SHAPE, "sliding_window": 6}),
    "gpt2": ("gpt2", GPT2),
}


def causal(name: str) -> Causal:
    """A random model in eval mode whose choices are far apart."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = MODELS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32)
        for parameter in model.parameters():
            spread = 2 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn(parameter.shape) * spread)
    take_apart(model.base_model)
    return Causal(model.eval())


def cut(name: str) -> Causal:
    """One with blocks of different heads and neurons, and with factors in place of two matrices."""
    model = causal(name)
    first, last = model.backbone.layers  # type: ignore[misc]
    width = last.self_attn.head_dim
    for role, rows in (("q_proj", 2 * width), ("k_proj", width), ("v_proj", width)):
        setattr(last.self_attn, role, smaller(getattr(last.self_attn, role), rows=rows))
    last.self_attn.o_proj = smaller(last.self_attn.o_proj, columns=2 * width)
    first.mlp.gate_proj, first.mlp.up_proj = smaller(first.mlp.gate_proj, rows=40), smaller(first.mlp.up_proj, rows=40)
    first.mlp.down_proj = smaller(first.mlp.down_proj, columns=40)
    first.self_attn.q_proj, last.mlp.down_proj = factors(first.self_attn.q_proj), factors(last.mlp.down_proj)
    return model.eval()  # type: ignore[return-value]


def smaller(linear: nn.Linear, rows: int | None = None, columns: int | None = None) -> nn.Linear:
    weight = linear.weight[:rows, :columns]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=linear.bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone())
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias[:rows].detach().clone())
    return layer


def factors(linear: nn.Linear) -> LowRank:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return LowRank(linear.in_features, linear.out_features, 20, linear.bias is not None)


CASES: dict[str, Callable[[], Causal]] = {
    **{name: (lambda name=name: causal(name)) for name in MODELS},  # type: ignore[misc]
    **{f"{name}, cut": (lambda name=name: cut(name)) for name in ("llama", "qwen2", "qwen3", "mistral")},  # type: ignore[misc]
}
