"""The base class of the key-value caches of torch programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class TorchCache(ABC):
    """Keys and values of B rows. The layers of a transformers model call `update`, each with its own number of heads.

    Tokens are numbered from 0 along the padded prompt and its answer, alike in all rows; `starts` (B,) holds the
    number of each row's first token that is not padding. It takes the place of a `transformers.Cache` without being
    one: all that a model asks of it, once it is given masks and positions, is `update`.
    """

    is_compileable = False  # asked by transformers

    def __init__(self, starts: Tensor) -> None:
        self.starts = starts
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens seen by each row, left padding included."""
        return self._length

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that hold keys and values now."""

    def require(self, new: int) -> None:  # noqa: B027 - most caches have no limit
        """Raise CacheFullError where `new` more tokens do not fit."""

    def slots(self, new: int) -> Tensor:
        """Numbers (1 or B, T) of the tokens whose keys `update` gives while `new` tokens are read."""
        return torch.arange(self._length + new, device=self.starts.device)[None]

    def together(self) -> int | None:
        """Largest number of tokens that can be read in one call with the same attention as one by one; None: any."""
        return None

    @abstractmethod
    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, heads, new, D) of one layer; returns those to attend to, (B, heads, T, D) each."""

    def advance(self, new: int) -> None:
        """Count `new` tokens as read, after `update` was called for all layers."""
        self._length += new


def nbytes_of(tensors: Iterable[Tensor]) -> int:
    """The bytes of the elements of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
