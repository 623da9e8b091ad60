"""The models that benchmarks time: of MiniLM's shape with random weights, which take the same time as trained ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from objectives.bench import Batch, open_bench
from objectives.process import Remote
from objectives.workload import Frame, Workload, inputs
from spaces import build
from spaces.runtime import Context

#: nreimers/MiniLM-L6-H384-uncased, the shape of all-MiniLM-L6-v2.
MINILM = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
CONFIG = {"model_type": "bert", **MINILM}
#: Of the same kind and vocabulary, for runs that only show that everything works.
TOY = {**CONFIG, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def write_model(folder: Path, config: Mapping[str, Any] = CONFIG) -> Path:
    """A model folder as a search stores it, seed 0."""
    import torch

    from spaces.base import Base, skeleton, write_folder

    torch.manual_seed(0)
    base = Base("minilm", "random", "mean", ("negative", "positive"), ("input_ids", "attention_mask"), config)
    write_folder(folder, skeleton(base).eval(), base, {})
    return folder


def opened(folder: Path, runtime: str, device: str, precision: str = "fp32") -> Remote:
    """The model in a process of its own."""
    opening = partial(build.open_predict, folder, runtime, {"precision": precision}, Context(device))
    return open_bench(opening, device, timeout_s=300)


def fed(batch: int = 1, length: int = 32) -> list[Batch]:
    return list(inputs(Workload(batch, length), ("input_ids", "attention_mask"), Frame(MINILM["vocab_size"])))
