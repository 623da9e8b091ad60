"""What a program must know of the graph of a causal language model, stored as the graph's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spaces.generation.onnx_file import ABOUT


@dataclass(frozen=True)
class GraphFacts:
    """Sizes of the caches, and positions: see `spaces.generation.onnx_decoder.Decoder.about`."""

    keys: Sequence[int]  # heads of keys by block
    head_dim: int
    vocabulary: int
    positions: int | None  # in a table; None where positions have no limit
    frequencies: Sequence[float] | None  # of rotary positions (head_dim / 2,); None where positions are a table
    scale: float  # of their cosines and sines

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> GraphFacts:
        return cls(**json.loads(metadata[ABOUT]))

    def rotary(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines (..., head_dim / 2) float32 of positions (...); of width 0 where positions are a table."""
        angles = positions.astype(np.float32)[..., None] * np.array(self.frequencies or (), np.float32)
        return np.cos(angles) * np.float32(self.scale), np.sin(angles) * np.float32(self.scale)
