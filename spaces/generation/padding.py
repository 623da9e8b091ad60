"""Padding of prompts."""

from __future__ import annotations

import numpy as np


def left_padding(attention_mask: np.ndarray) -> np.ndarray:
    """The number (B,) of padded tokens before each row.

    Raises:
        ValueError: a row without tokens, or with padding after a token.
    """
    counts = attention_mask.shape[1] - attention_mask.sum(1)
    if not attention_mask[:, -1:].all() or not attention_mask.size:
        raise ValueError("prompts must have a token each and be padded on the left, got a row that ends in padding")
    if (np.diff(attention_mask, axis=1) < 0).any():
        raise ValueError("prompts must be padded on the left, got a row with padding between its tokens")
    return counts.astype(np.int64)  # type: ignore[no-any-return]
