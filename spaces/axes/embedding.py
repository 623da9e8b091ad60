"""The dimension of text embeddings, to which the memory of an index of texts is proportional."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from spaces.axis import Phase
from spaces.errors import Infeasible
from spaces.heads import PooledEncoder
from spaces.knob import Knob, Plan, Settings
from spaces.pooling import Dense
from spaces.shape import Shape
from spaces.statistics import EMBEDDING, Statistics

GRID_STEPS = 12  # of the knob's grid; 12 divides 384 and 768, and 1024 nearly
LINEAR = "torch.nn.modules.linear.Identity"


class EmbeddingSize:
    """A linear layer behind the pooling that gives an embedding's coordinates on the teacher's first principal axes.

    The axes are those of the second moment of the teacher's unit embeddings, without centring: of all linear maps to
    so many dimensions this one preserves inner products best (Eckart & Young, 1936), and embeddings are compared by
    their cosines. The layer is a Dense module of sentence-transformers. It acts before all other axes, so recovery
    imitates the teacher's embedding after the same layer.
    """

    name = "embedding"
    phase = Phase.SHAPE
    source = "Jolliffe 2002, Principal Component Analysis; Eckart & Young 1936"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        size = shape.embedding
        if size < 2:
            return ()
        step = max(1, size // GRID_STEPS)
        low = size - step * ((size - 1) // step)
        return (
            Knob(
                "size",
                off=size,
                low=low,
                high=size,
                step=step,
                opt_in=True,  # it makes an index smaller, and no model faster
                help="dimension of an embedding, after a PCA: the memory of an index of texts is proportional to it",
            ),
        )

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        size = statistics.shape.embedding
        count = int(settings.get("size", size))
        if count == size:
            return {}
        if not 1 <= count < size:
            raise Infeasible(f"embedding.size must be in [1, {size}], got {count}")
        return {"size": count}

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        if not plan:
            return statistics
        return Statistics(replace(statistics.shape, embedding=plan["size"]), statistics.tensors)

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        if plan:
            assert isinstance(model, PooledEncoder)
            hidden = model.pooled.pooling.size(int(model.backbone.config.hidden_size))  # type: ignore[union-attr,arg-type]
            model.pooled.append(Dense(hidden, plan["size"], bias=False, activation=LINEAR))

    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        if plan:
            assert isinstance(model, PooledEncoder)
            linear = model.pooled.dense[-1]
            assert isinstance(linear, nn.Linear)
            linear.weight = nn.Parameter(principal(statistics, plan["size"]).to(linear.weight))


def principal(statistics: Statistics, count: int) -> Tensor:
    """The first principal axes (count, D) of the teacher's embeddings, by falling eigenvalue.

    The largest coordinate of an axis is positive, so that its sign is the same on every machine.
    """
    vectors = torch.linalg.eigh(statistics.tensors[EMBEDDING].double()).eigenvectors.T.flip(0)[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    directions: Tensor = (vectors * largest.sign()).float().contiguous()
    return directions
