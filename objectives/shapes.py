"""The sizes of many models as arrays, from which their times, storage and operations are computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from objectives.arrays import Floats
from objectives.ceilings import BYTES
from objectives.roofline import Sizes

#: Fields of `Shapes` with one value per model; the others have one per model and kind of matrix.
SCALARS = (
    "blocks",
    "attention",
    "hidden",
    "row_weights",
    "row_matrices",
    "tables",
    "vectors",
    "tied",
    "step_bytes",
    "cache_bytes",
)
MATRIX_FIELDS = ("count", "inputs", "outputs")

#: Precisions in which all tensors are stored; in the others only matrices are, beside fp32 vectors and tables.
WHOLE = ("fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of N models. A size may be a mean over blocks, and so fractional: derived quantities are sums over blocks.

    Every token passes `count` matrices of `inputs` by `outputs`, (N, K) each, of up to K kinds; unused kinds count 0.
    A low-rank pair is two matrices.
    """

    count: Floats
    inputs: Floats
    outputs: Floats
    blocks: Floats  # (N,)
    attention: Floats  # (N,) sum over blocks of heads * head size of the queries
    hidden: Floats  # (N,) width of the residual stream
    row_weights: Floats  # (N,) numbers in the matrices that a row passes once: pooler and head
    row_matrices: Floats  # (N,) how many those are
    tables: Floats  # (N,) numbers in all embedding tables
    vectors: Floats  # (N,) numbers in biases and norms
    tied: Floats  # (N,) numbers of `row_weights` that are also among `tables`: a head that is the token table
    # Of a step of generation under one deployment, which reads them for one token of each row; 0 where none is timed:
    step_bytes: Floats  # (N,) bytes of the matrices in their precisions
    cache_bytes: Floats  # (N,) bytes of the keys and values of all rows, on average over the steps of a call

    def __post_init__(self) -> None:
        size = self.count.shape
        if len(size) != 2 or any(getattr(self, name).shape != size for name in MATRIX_FIELDS):
            each = ", ".join(str(getattr(self, name).shape) for name in MATRIX_FIELDS)
            raise ValueError(f"{', '.join(MATRIX_FIELDS)} must be of one shape (N, K), got {each}")
        for name in SCALARS:
            if getattr(self, name).shape != size[:1]:
                raise ValueError(f"{name} must be of shape {size[:1]}, got {getattr(self, name).shape}")

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, chosen: Any) -> Shapes:
        """The models at these places: a slice, indices or a mask."""
        return Shapes(**{name: getattr(self, name)[chosen] for name in (*MATRIX_FIELDS, *SCALARS)})

    @property
    def weights(self) -> Floats:
        """(N,): numbers in all matrices."""
        per_token: Floats = (self.count * self.inputs * self.outputs).sum(1)
        return per_token + self.row_weights

    @classmethod
    def of(cls, sizes: Sizes, hidden: int, tables: int = 0, vectors: int = 0, tied: int = 0) -> Shapes:
        """The sizes of one model.

        Args:
            tables, vectors, tied: elements of embedding tables, of biases and norms, and of a head that is the token
                table. They count for storage; the time of a call does not depend on them.
        """
        kinds = sorted(Counter(sizes.token_matrices).items())
        matrices = np.array([[float(count), *map(float, kind)] for kind, count in kinds]).reshape(-1, 3)
        scalars = {
            "blocks": len(sizes.attention),
            "attention": sum(sizes.attention),
            "hidden": hidden,
            "row_weights": sum(a * b for a, b in sizes.row_matrices),
            "row_matrices": len(sizes.row_matrices),
            "tables": tables,
            "vectors": vectors,
            "tied": tied,
            "step_bytes": 0,
            "cache_bytes": 0,
        }
        return cls(*(matrices[None, :, i] for i in range(3)), **{n: np.array([float(v)]) for n, v in scalars.items()})

    def to_json(self) -> list[dict[str, Any]]:
        """One mapping per model, equal for equal models: every kind once, in order, without those that count 0."""
        rows = []
        for i in range(len(self)):
            row: dict[str, Any] = {name: round(float(getattr(self, name)[i]), 6) for name in SCALARS}
            kinds: Counter[tuple[float, float]] = Counter()
            for count, a, b in zip(*(getattr(self, name)[i].tolist() for name in MATRIX_FIELDS), strict=True):
                kinds[round(a, 6), round(b, 6)] += count
            row["matrices"] = sorted([round(count, 6), a, b] for (a, b), count in kinds.items() if count)
            rows.append(row)
        return rows

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> Shapes:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: not the output of `to_json`, or a size that is negative or not finite.
        """
        kinds = np.zeros((3, len(rows), max((len(row["matrices"]) for row in rows), default=0)))
        for i, row in enumerate(rows):
            for k, kind in enumerate(row["matrices"]):
                kinds[:, i, k] = kind
        scalars = {name: np.array([float(row[name]) for row in rows]) for name in SCALARS}
        if not all((np.isfinite(array) & (array >= 0)).all() for array in (kinds, *scalars.values())):
            raise ValueError("sizes must be finite and not negative")
        return cls(*kinds, **scalars)


def megabytes_of(
    shapes: Shapes, precision: str, tables: str = "", head: str = "", fp32_blocks: int = 0, int8_blocks: int = 0
) -> Floats:
    """(N,): storage in MB of 1e6 bytes where weights have this precision. Scales and file headers are not counted.

    Args:
        precision: of all tensors where it is one of `WHOLE`, else of matrices alone: vectors stay fp32.
        tables: precision of the embedding tables; "": that of the vectors.
        head: precision of the matrices that a row passes once; "": that of the others.
        fp32_blocks: blocks whose matrices stay fp32.
        int8_blocks: blocks, of the others, whose matrices are int8.

    Precisions are keys of `ceilings.BYTES`. A tied table is stored once where it and the head have the same precision,
    else twice: as rows and as the head.

    Raises:
        ValueError: an unknown precision.
    """
    vectors = precision if precision in WHOLE else "fp32"
    tables, head = tables or vectors, head or precision
    for name in (precision, tables, head):
        if name not in BYTES:
            raise ValueError(f"precision must be one of {', '.join(BYTES)}, got {name}")
    once = shapes.tied if tables == head else np.zeros(len(shapes))
    stored: Floats = (
        matrix_bytes(shapes, precision, head, fp32_blocks, int8_blocks)
        + (shapes.tables - once) * BYTES[tables]
        + shapes.vectors * BYTES[vectors]
    )
    return stored / 1e6


def matrix_bytes(shapes: Shapes, precision: str, head: str = "", fp32_blocks: int = 0, int8_blocks: int = 0) -> Floats:
    """(N,): bytes of all matrices, with arguments as for `megabytes_of`; a pass reads each of them once."""
    blocks = np.maximum(shapes.blocks, 1.0)
    fp32 = np.minimum(fp32_blocks / blocks, 1.0)
    int8 = np.minimum(int8_blocks / blocks, 1.0 - fp32)
    inside = shapes.weights - shapes.row_weights
    each = fp32 * BYTES["fp32"] + int8 * BYTES["int8"] + (1 - fp32 - int8) * BYTES[precision]
    read: Floats = inside * each + shapes.row_weights * BYTES[head or precision]
    return read


def operations_of(shapes: Shapes, batch: int, length: float) -> Floats:
    """(N,): multiplications and additions of a call with `batch` rows of `length` tokens; see `roofline.work`."""
    per_token = (shapes.count * shapes.inputs * shapes.outputs).sum(1)
    operations: Floats = (
        2 * batch * length * per_token + 2 * batch * shapes.row_weights + 4 * batch * length * length * shapes.attention
    )
    return operations


#: The terms of a call's time. Each is non-negative and grows with the sizes that it depends on.
COSTS = (
    "call",
    "block",
    "matrix",
    "multiply-add",
    "weight",
    "element written",
    "element read",
    "attention score",
    "element of the residual stream",
)


def features(shapes: Shapes, batch: int, length: float) -> Floats:
    """(N, F): the number of times that each of `COSTS` occurs in a call with `batch` rows of `length` tokens.

    The terms of a product of matrices (m, k) and (k, n) are mkn, kn, mn and mk: tiled kernels pay for reading and
    writing beside the multiplications (Goto & van de Geijn, 2008, section 3).
    """
    tokens = batch * length
    columns = (
        np.ones(len(shapes)),
        shapes.blocks,
        shapes.count.sum(1) + shapes.row_matrices,
        tokens * (shapes.count * shapes.inputs * shapes.outputs).sum(1) + batch * shapes.row_weights,
        shapes.weights,
        tokens * (shapes.count * shapes.outputs).sum(1),
        tokens * (shapes.count * shapes.inputs).sum(1),
        tokens * length * shapes.attention,
        tokens * shapes.hidden * (shapes.blocks + 1),
    )
    return np.stack(columns, axis=1)


#: The number of `coordinates`.
COORDINATES = 6


def coordinates(shapes: Shapes) -> Floats:
    """(N, COORDINATES): for the distance between models: logarithms of sizes, none a multiple of another."""
    blocks = np.maximum(shapes.blocks, 1.0)
    columns = (
        blocks,
        1 + shapes.count.sum(1) / blocks,
        1 + shapes.weights / blocks,
        1 + (shapes.count * shapes.outputs).sum(1) / blocks,
        1 + shapes.attention / blocks,
        1 + shapes.hidden,
    )
    logs: Floats = np.log(np.stack(columns, axis=1))
    return logs
