"""What a step of decoding reads from memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.generating import Deployment
from spaces import base


def step_bytes(model: Mapping[str, int], deployment: Deployment, length: int) -> float:
    """What a step reads after `length` tokens: the weights of the blocks and the head, keys and values."""
    number = 2 if deployment.plan["precision"] == "bf16" else 4
    cache = 2 * model["blocks"] * model["keys"] * length * number
    return model["body"] * deployment.body + model["head"] * deployment.head + cache


def sizes(folder: Path) -> dict[str, int]:
    """Numbers of weights in blocks and head; blocks; numbers of a token's keys in each."""
    config = base.read_config(folder)[0].config
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    keys = config["num_key_value_heads"] * width
    block = 2 * hidden * config["num_attention_heads"] * width + 2 * hidden * keys + 3 * hidden * inner
    blocks = config["num_hidden_layers"]
    return {"body": blocks * block, "head": hidden * config["vocab_size"], "blocks": blocks, "keys": keys}
