"""The sizes of a model stored in a folder, from the shapes of its weights; none of the weights is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from objectives import roofline
from spaces.base import read_config
from spaces.generation.causal_predict import LOG_LIKELIHOOD

if TYPE_CHECKING:
    from spaces.families import Family


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every weight stored in `folder`, by name; reads none of them."""
    from safetensors import safe_open

    from spaces.base import WEIGHTS

    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def model_sizes(folder: Path) -> roofline.Sizes | None:
    """The sizes of the model stored in `folder`, from its weights' shapes; None for a family that is not known."""
    from spaces.errors import Infeasible
    from spaces.families import family_of

    base, plans = read_config(folder)
    try:
        family = family_of(str(base.config["model_type"]))
    except Infeasible:
        return None
    shapes, _ = model_shapes(folder, family)
    skipping = plans.get("sparse", {}).get("pattern", "any") != "any"
    flat = {name: _whole(name, shapes, skipping) for name, shape in shapes.items() if len(shape) == 2}
    tables = {n: s for n, s in flat.items() if any(f"{path}." in n for path in family.embeddings)}
    matrices = {n: (s[1], s[0]) for n, s in flat.items() if n not in tables}
    inside = {n: m for n, m in matrices.items() if f"{family.layers}." in n}
    # Of a low-rank pair the second factor, which comes last, has the queries' width.
    queries: dict[str, int] = {}
    for name, (_, outputs) in sorted(inside.items()):
        before, separator, _ = name.partition(f".{family.query}.")
        if separator:
            queries[before] = outputs
    return roofline.Sizes(
        token_matrices=tuple(inside.values()),
        row_matrices=tuple(m for n, m in matrices.items() if n not in inside),
        attention=tuple(queries.values()),
        tables=tuple(s[1] for s in tables.values()),
    )


def model_shapes(folder: Path, family: Family) -> tuple[dict[str, tuple[int, ...]], int]:
    """`weight_shapes` with the token table and the output matrix of a causal language model under names of their own,
    and how many numbers these two share: a file holds a tied table once, under either name.
    """
    shapes = weight_shapes(folder)
    if read_config(folder)[0].output != LOG_LIKELIHOOD:
        return shapes, 0
    flat = {n: s for n, s in shapes.items() if len(s) == 2 and f"{family.layers}." not in n}
    positions = [n for n in flat if any(f"{path}." in n for path in family.embeddings[1:])]
    tables = [n for n in flat if f"{family.embeddings[0]}." in n]
    heads = [n for n in flat if n not in (*positions, *tables)]
    if tables and heads:
        return shapes, 0
    [stored] = tables or heads
    other = "head" if tables else f"{family.embeddings[0]}.weight"
    return {**shapes, other: shapes[stored]}, math.prod(shapes[stored])


def key_heads(folder: Path) -> tuple[tuple[int, ...], int] | None:
    """Key-value heads by block, and the size of a head; None for a family that is not known."""
    from spaces.errors import Infeasible
    from spaces.families import family_of

    base = read_config(folder)[0]
    try:
        family = family_of(str(base.config["model_type"]))
    except Infeasible:
        return None
    config = base.config
    hidden, heads = config.get("hidden_size") or config["n_embd"], config.get("num_attention_heads") or config["n_head"]
    size = int(config.get("head_dim") or hidden // heads)
    keys: dict[str, int] = {}
    shapes = {name: shape for name, shape in weight_shapes(folder).items() if len(shape) == 2}
    for name in sorted(shapes):  # of a low-rank pair the second factor, which comes last, has the keys' width
        block, separator, _ = name.partition(f".{family.key}.")
        if separator:
            keys[block] = _whole(name, shapes, False)[0]
    return tuple(width // size for width in keys.values()), size


def _whole(name: str, shapes: Mapping[str, tuple[int, ...]], skipping: bool) -> tuple[int, int]:
    """(outputs, inputs) that are multiplied of the stored tensor `name`.

    The zeros of a sparse matrix (its kept values, beside a bit for each weight) are numbers like others where no kernel
    is `skipping` them.
    """
    outputs, inputs = shapes[name]
    mask = shapes.get(f"{name.removesuffix('values')}mask") if name.endswith(".values") else None
    return (outputs, inputs) if mask is None or skipping else (outputs, 8 * mask[0] // outputs)
