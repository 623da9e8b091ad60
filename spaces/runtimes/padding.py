"""Padding of rows to few lengths, for runtimes that prepare themselves anew for each shape of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from spaces.base import Base
from spaces.heads import head_named

#: Lengths in tokens for runtimes that compile or capture a program for each: few, whatever the padding costs.
COMPILED_LENGTHS = (16, 32, 64, 128, 256, 512)
#: Lengths for runtimes that prepare themselves quickly, and keep what they have prepared: a row grows by
#: seven tokens or an eighth at most.
PREPARED_LENGTHS = (*range(8, 128, 8), *range(128, 256, 16), *range(256, 513, 32))


@runtime_checkable
class PaddedPredict(Protocol):
    """A prepared model that pads rows to `lengths`, for each of which its first call takes long."""

    lengths: tuple[int, ...]  # ascending


def lengths_of(base: Base, lengths: Sequence[int] = COMPILED_LENGTHS) -> tuple[int, ...]:
    """Those of `lengths` that are within the model's positions; () where the model has no padding token and needs one.

    A decoder's own classification head reads the last token that is not padding.
    """
    if head_named(base.head).finds_end and base.config.get("pad_token_id") is None:
        return ()
    # (GPT-2 calls them n_positions.)
    longest = int(base.config.get("max_position_embeddings") or base.config.get("n_positions") or lengths[-1])
    return tuple(length for length in lengths if length <= longest)


def padding_token(base: Base) -> int:
    """The token id that rows are padded with. Where the model has none any will do: its attention mask is 0."""
    return int(base.config.get("pad_token_id") or 0)


def padded_length(length: int, lengths: Sequence[int]) -> int:
    """The first of `lengths` (ascending) that holds `length`; a length beyond the last stays as it is."""
    return next((padded for padded in lengths if padded >= length), length)


def padded(
    batch: Mapping[str, np.ndarray], names: Sequence[str], length: int, pad: int, dtype: Any = np.int64
) -> dict[str, np.ndarray]:
    """The arrays (B, L) of these names as (B, length), padded at the right.

    Padding has attention mask 0 and the token id `pad`, so it changes no real position.
    """
    arrays = {}
    for name in names:
        rows, given = batch[name].shape
        arrays[name] = np.full((rows, length), pad if name == "input_ids" else 0, dtype=dtype)
        arrays[name][:, :given] = batch[name]
    return arrays
