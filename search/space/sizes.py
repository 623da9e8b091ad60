"""Sizes of models: of stored ones exactly, and of pools of settings before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from objectives.arrays import Floats
from objectives.shapes import Shapes
from search.space.space import Params, Space
from search.space.stored_sizes import model_shapes, model_sizes
from spaces.axes.distill import WIDTH_MULTIPLE
from spaces.axes.prune import NEURON_MULTIPLE
from spaces.base import read_config
from spaces.families import Family, family_of
from spaces.shape import Shape


@dataclass(frozen=True)
class Outline:
    """The sizes of a model that its space does not have: all but depth, width, heads and neurons."""

    gates: int = 1  # matrices that lead up into the feed-forward layer
    biased: frozenset[str] = frozenset()  # roles of the matrices with a bias: query, key, value, output, up, down
    block_vectors: int = 0  # of the hidden width, in a block: its norms
    outer_vectors: int = 0  # of the hidden width, outside
    loose: int = 0  # numbers in other vectors, which no axis cuts
    tables: tuple[tuple[int, int], ...] = ()  # rows and width of the embeddings, that of the token ids first
    row_matrices: tuple[tuple[int, int], ...] = ()  # pooler and head
    tied: bool = False  # whether one of these is the table of the token ids


def shapes_of_folder(folder: Path) -> Shapes | None:
    """The sizes of the model stored in `folder`; None for a family that is not known."""
    sizes = model_sizes(folder)
    if sizes is None:
        return None
    family = _family(folder)
    weights, tied = model_shapes(folder, family)
    tables = [(n, s) for n, s in weights.items() if len(s) == 2 and any(f"{path}." in n for path in family.embeddings)]
    # Of a factored table every token passes the second factor, (width, rank).
    factors = tuple((s[1], s[0]) for n, s in tables if n.endswith(".b.weight"))
    held = sum(a * b for n, (a, b) in tables if not n.endswith(".b.weight"))
    [hidden] = next(s for n, s in weights.items() if f"{family.layers}.0.{family.norms[0]}.weight" in n)
    # A sparse matrix has its mask beside its values, and counts whole.
    masks = {f"{n.removesuffix('values')}mask" for n in weights if n.endswith(".values")}
    vectors = sum(s[0] for n, s in weights.items() if len(s) == 1 and n not in masks)
    with_factors = replace(sizes, token_matrices=(*sizes.token_matrices, *factors))
    return Shapes.of(with_factors, hidden, held, vectors, tied)


def outline_of(folder: Path) -> Outline | None:
    """The outline of the uncompressed model stored in `folder`; None for a family that is not known."""
    sizes, whole = model_sizes(folder), shapes_of_folder(folder)
    if sizes is None or whole is None:
        return None
    family, hidden = _family(folder), int(whole.hidden[0])
    weights, _ = model_shapes(folder, family)
    names = {"query", "key", "value", "output", "down"}
    paths = {**{name: str(getattr(family, name)) for name in names}, "up": family.up[0]}
    # The last block: the first one of ModernBERT has a norm less than all others.
    last = f"{family.layers}.{len(sizes.attention) - 1}."
    block = {n.partition(last)[2]: s for n, s in weights.items() if last in n}
    biased = frozenset(role for role, path in paths.items() if f"{path}.bias" in block)
    of_roles = {f"{path}.bias" for path in (*paths.values(), *family.up)}
    norms = [s[0] for n, s in block.items() if len(s) == 1 and n not in of_roles]
    outside = [s[0] for n, s in weights.items() if len(s) == 1 and f"{family.layers}." not in n]
    depth = len(sizes.attention)
    return Outline(
        gates=len(family.up),
        biased=biased,
        block_vectors=norms.count(hidden),
        outer_vectors=outside.count(hidden),
        loose=depth * sum(n for n in norms if n != hidden) + sum(n for n in outside if n != hidden),
        tables=tuple(
            (s[0], s[1]) for path in family.embeddings for n, s in weights.items() if f"{path}." in n and len(s) == 2
        ),
        row_matrices=sizes.row_matrices,
        tied=bool(whole.tied[0]),
    )


def shapes_of(space: Space, pool: Sequence[Params], outline: Outline | None = None) -> Shapes:
    """The sizes of the models that settings `<axis>.<knob>` of a pool ask for, (N,) in all.

    The statistics decide which blocks keep which heads, neurons and ranks; here every block keeps the same share, if
    need be a fraction of a head. Sums over blocks, and hence parameters and operations, are those of the plan up to
    rounding, except where a budget of ranks is divided among matrices of different shapes. Every matrix that becomes
    smaller is factored. Knobs that change no size are ignored.

    Raises:
        ValueError: the space has no shape.
    """
    if space.shape is None:
        raise ValueError("the sizes of a model whose anatomy is not known do not follow from its settings")
    return _Sizes(space, pool, outline or Outline()).shapes()


class _Sizes:
    """The sizes of one pool, each (N,)."""

    def __init__(self, space: Space, pool: Sequence[Params], outline: Outline) -> None:
        assert space.shape is not None
        self._shape: Shape = space.shape
        self._space, self._pool, self._outline = space, pool, outline
        depth = self._shape.depth
        self.blocks = self._column("distill.layers", depth)
        self.hidden = self._hidden(self._column("distill.width", 1.0))
        heads, neurons = self._shares()
        each = sum(layer.heads for layer in self._shape.layers) / depth
        self.heads = self._remaining(heads, each, 1)
        each = sum(layer.neurons for layer in self._shape.layers) / depth
        self.neurons = self._remaining(neurons, each, NEURON_MULTIPLE)
        self.queries = self.heads * self._shape.head_dim * self._shape.group

    def shapes(self) -> Shapes:
        outline, zeros = self._outline, np.zeros(len(self._pool))
        tables = sum((rows * self._width(width) for rows, width in outline.tables), zeros)
        kinds = self._kinds()
        if outline.tables:
            rank, saved = self._table_rank(*outline.tables[0])
            tables = tables - saved
            kinds.append(((rank > 0).astype(float), rank, self._width(outline.tables[0][1])))
        counts, inputs, outputs = (np.stack(part, axis=1) for part in zip(*kinds, strict=True))
        return Shapes(
            counts,
            inputs,
            outputs,
            blocks=self.blocks,
            attention=self.blocks * self.queries,
            hidden=self.hidden,
            row_weights=sum((self._width(a) * self._width(b) for a, b in outline.row_matrices), self._projection()),
            row_matrices=zeros + len(outline.row_matrices) + (self._projection() > 0),
            tables=tables,
            vectors=self._vectors(),
            tied=self._tied(),
            step_bytes=zeros,
            cache_bytes=zeros,
        )

    def _tied(self) -> Floats:
        if not self._outline.tied:
            return np.zeros(len(self._pool))
        rows, width = self._outline.tables[0]
        return rows * self._width(width)

    def _projection(self) -> Floats:
        """Weights of the layer that makes an embedding smaller."""
        whole = self._shape.embedding
        size = self._column("embedding.size", whole)
        return np.where(size < whole, size * self._width(whole), 0.0)

    def _matrices(self) -> dict[str, tuple[int, Floats, Floats]]:
        """(how many a block, inputs, outputs) by role."""
        keys = self.heads * self._shape.head_dim
        return {
            "query": (1, self.hidden, self.queries),
            "key": (1, self.hidden, keys),
            "value": (1, self.hidden, keys),
            "output": (1, self.queries, self.hidden),
            "up": (self._outline.gates, self.hidden, self.neurons),
            "down": (1, self.neurons, self.hidden),
        }

    def _kinds(self) -> list[tuple[Floats, Floats, Floats]]:
        """(count, inputs, outputs) of every matrix: whole, or as two factors."""
        share = self._column("low_rank.rank", 1.0)
        alike = self._says("low_rank.allocation", "uniform")
        kinds = []
        for times, a, b in self._matrices().values():
            even = a * b / (a + b)
            rank = np.where(alike, np.maximum(1, np.floor(share * even)), np.maximum(1, share * even))
            factored = (share < 1) & (rank < even)
            count = times * self.blocks
            kinds.append((count, a, np.where(factored, rank, b)))
            kinds.append((np.where(factored, count, 0.0), rank, b))
        return kinds

    def _table_rank(self, rows: int, width: int) -> tuple[Floats, Floats]:
        """Rank of the table of token ids (0: whole), and the numbers that it loses by it."""
        share, hidden = self._column("low_rank.embeddings", 1.0), self._width(width)
        even = rows * hidden / (rows + hidden)
        rank = np.where(share < 1, np.maximum(1, np.floor(share * even)), 0.0)
        return rank, np.where(share < 1, rows * (hidden - rank), 0.0)

    def _vectors(self) -> Floats:
        outline = self._outline
        of_roles = {role: times * outputs for role, (times, _, outputs) in self._matrices().items()}
        biases = sum((of_roles[role] for role in outline.biased), np.zeros(len(self._pool)))
        in_blocks = self.blocks * (biases + outline.block_vectors * self.hidden)
        return in_blocks + outline.outer_vectors * self.hidden + outline.loose

    def _hidden(self, share: Floats) -> Floats:
        """As `Distill.decide` rounds it."""
        whole = self._shape.hidden
        remaining = np.maximum(WIDTH_MULTIPLE, np.round(share * whole / WIDTH_MULTIPLE) * WIDTH_MULTIPLE)
        return np.where((share < 1) & (remaining < whole), remaining, float(whole))

    def _width(self, size: int) -> Floats:
        """`size` where it is not the hidden width, else what is left of that."""
        return self.hidden if size == self._shape.hidden else np.full(len(self._pool), float(size))

    def _shares(self) -> tuple[Floats, Floats]:
        """Of heads and of neurons. A budget of products caps both alike; below both caps each keeps what it has."""
        heads, neurons = self._column("prune.heads", 1.0), self._column("prune.neurons", 1.0)
        budget = self._column("prune.flops", 1.0)
        layers = self._shape.layers
        of_heads = 2 * self._shape.head_dim * (self._shape.group + 1) * sum(layer.heads for layer in layers)
        of_neurons = (self._outline.gates + 1) * sum(layer.neurons for layer in layers)
        left = budget * (of_heads + of_neurons)
        least = np.minimum(heads, neurons)
        cap = np.where(
            budget <= least,
            budget,
            np.where(heads < neurons, (left - of_heads * heads) / of_neurons, (left - of_neurons * neurons) / of_heads),
        )
        on = budget < 1
        return np.where(on, np.minimum(heads, cap), heads), np.where(on, np.minimum(neurons, cap), neurons)

    def _remaining(self, share: Floats, whole: float, multiple: int) -> Floats:
        """Units a block, in the mean: one budget over all blocks, or with a share a block as `prune.keep` rounds it."""
        everywhere = np.round(share * whole * self.blocks) / self.blocks
        step = multiple if whole >= 4 * multiple else 1
        each = np.round(np.round(share * whole) / step) * step
        alike = self._says("prune.criterion", "uniform", "magnitude")
        return np.where(share >= 1, whole, np.clip(np.where(alike, each, everywhere), 1.0, whole))

    def _column(self, name: str, off: float) -> Floats:
        values = [params.get(name, off) for params in self._pool]
        return np.array(values, dtype=float)

    def _says(self, name: str, *values: str) -> np.ndarray:
        """(N,): whether a setting has one of these values."""
        return np.array([params.get(name) in values for params in self._pool], dtype=bool)


def _family(folder: Path) -> Family:
    return family_of(str(read_config(folder)[0].config["model_type"]))
