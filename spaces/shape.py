"""The sizes of a transformer that axes decide over."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class LayerShape:
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
    embedding: int = 0  # numbers of the embedding of a text; 0: the head gives something else

    @property
    def depth(self) -> int:
        return len(self.layers)

    def with_layers(self, layers: tuple[LayerShape, ...]) -> Shape:
        return replace(self, layers=layers)


#: Stands in for a model whose anatomy is unknown: only axes that need no anatomy are asked for their knobs.
NO_SHAPE = Shape(hidden=1, head_dim=1, group=1, layers=(), prunable_heads=False, prunable_hidden=False)
