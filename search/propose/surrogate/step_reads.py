"""The bytes that a step of generation reads under a deployment: of the matrices, and of the key-value cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from objectives.arrays import Floats
from objectives.passes import Passes
from objectives.shapes import Shapes, matrix_bytes
from search.space.deployments import INT8_BLOCKS, PRECISION, RUNTIME, Deployment
from search.space.space import Params
from spaces.axes.bits import EMBEDDING_PRECISIONS, HEAD_PRECISIONS, INTEGER, WITH_A_HEAD, WITH_INT8_BLOCKS
from spaces.cache_settings import CacheSettings
from spaces.generation import cache_size
from spaces.generation.causal_predict import default_cache
from spaces.runtime import Context
from spaces.shape import Shape

TABLES = "bits.embeddings"
AS_IS = EMBEDDING_PRECISIONS[0]


class Precisions(NamedTuple):
    """The precisions that weights are stored in, in the order of `objectives.shapes.megabytes_of`."""

    precision: str
    tables: str  # "": as the vectors
    head: str  # "": as the other matrices
    fp32_blocks: int
    int8_blocks: int

    @classmethod
    def of(cls, settings: Params, head_follows: bool) -> Precisions:
        """Those of settings `<axis>.<knob>`; absent ones are off.

        Args:
            head_follows: whether a head without a precision of its own has that of the blocks even where some of them
                stay fp32; else it is fp32 too.
        """
        precision, tables = str(settings.get(PRECISION, "fp32")), str(settings.get(TABLES, AS_IS))
        fp32_blocks = int(settings.get("bits.fp32_blocks", 0)) if precision in INTEGER else 0
        int8_blocks = int(settings.get(INT8_BLOCKS, 0)) if precision in WITH_INT8_BLOCKS else 0
        own = str(settings.get("bits.head", HEAD_PRECISIONS[0])) if precision in WITH_A_HEAD else HEAD_PRECISIONS[0]
        follows = "fp32" if fp32_blocks and not head_follows else ""
        head = follows if own == HEAD_PRECISIONS[0] else own
        return cls(precision, "" if tables == AS_IS else tables, head, fp32_blocks, int8_blocks)


@dataclass(frozen=True)
class StepReads:
    """What the steps of a call read of the models of one space.

    Args:
        shape: of the uncompressed model.
        context: where the models are opened.
    """

    shape: Shape
    context: Context

    def added(self, shapes: Shapes, settings: Params, passes: Passes) -> Shapes:
        """`shapes` of models under one deployment, with the bytes that a step reads; unchanged without steps.

        Args:
            settings: those of the deployment, and of the precision, by `<axis>.<knob>`.
            passes: of the timed call.
        """
        if not passes.steps:
            return shapes
        stored = Precisions.of(settings, head_follows=True)
        head_bytes = self._bytes_a_head(settings, stored.precision, round(passes.tokens))
        return replace(
            shapes,
            step_bytes=matrix_bytes(shapes, stored.precision, stored.head, stored.fp32_blocks, stored.int8_blocks),
            cache_bytes=passes.batch * head_bytes * self._key_heads(shapes),
        )

    def cache_at_end(self, shapes: Shapes, settings: Params, rows: int) -> Floats:
        """(N,) bytes of the keys and values of `rows` rows at the end of a call under one deployment."""
        precision = str(settings.get(PRECISION, "fp32"))
        return self._key_heads(shapes) * rows * self._bytes_a_head(settings, precision, self.context.cache_tokens)

    def _key_heads(self, shapes: Shapes) -> Floats:
        """(N,) heads of keys and values of all blocks, each of which the queries of a group share."""
        heads: Floats = shapes.attention / (self.shape.group * self.shape.head_dim)
        return heads

    def _bytes_a_head(self, settings: Params, precision: str, tokens: int) -> float:
        """Bytes of the keys and values of a head of a row after `tokens` tokens; for a static cache, allocated ones."""
        deployment = Deployment.of({RUNTIME: "eager", **settings})
        named = deployment.cache
        if named == CacheSettings():
            named = default_cache(deployment.runtime, self.context)
        cache = replace(named, capacity=self.context.cache_tokens)
        stored = cache_size.cached_precision(str(settings.get(RUNTIME, "")), precision)
        return cache_size.cache_bytes(tokens, [1], self.shape.head_dim, cache, stored)
