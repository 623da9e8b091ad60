"""The sizes of a transformer that axes decide over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The sizes of one block."""

    heads: int  # prunable head groups (a group is one key-value head and the query heads that share it)
    neurons: int  # width of the feed-forward layer


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that axes decide over."""

    hidden: int
    head_dim: int
    group: int  # query heads per key-value head
    layers: tuple[LayerShape, ...]
    prunable_heads: bool
    prunable_hidden: bool
    embedding: int = 0  # dimension of a text's embedding; 0 where the head gives none

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(self.layers)


#: The shape of a model of unknown anatomy, for the knobs of axes that need none.
NO_SHAPE = Shape(hidden=1, head_dim=1, group=1, layers=(), prunable_heads=False, prunable_hidden=False)
