"""A random Llama over bytes, with a chat template."""

from __future__ import annotations

from pathlib import Path

import families
import torch

CONTEXT = 80
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('no robots') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}{% if not loop.last or add_generation_prompt %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_llama(folder: Path) -> Path:
    """Write one with a context of `CONTEXT` tokens to `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = families.byte_tokenizer("GPT2Tokenizer")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": CONTEXT}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config = AutoConfig.for_model("llama", vocab_size=257, num_key_value_heads=2, **sizes, **special)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 2 * parameter.shape[-1] ** -0.5)
        model.save_pretrained(folder)
    return folder
