"""The space a configuration opens on this machine."""

from __future__ import annotations

import spaces
from search import compose
from search.config import from_mapping, load
from search.space import Space, open_space
from spaces.anatomy import LayerShape, Shape
from spaces.axis import Context

SHAPE = Shape(
    hidden=64, head_dim=16, group=1, layers=(LayerShape(4, 64),) * 2, prunable_heads=True, prunable_hidden=True
)


def opened(space: dict[str, object]) -> Space:
    mapping = {**load(None, [], compose.names()).to_mapping(), "space": space}
    return open_space(from_mapping(mapping, compose.names()), SHAPE, Context())


def test_a_runtime_that_takes_minutes_to_open_is_measured_only_where_it_is_named() -> None:
    assert spaces.CLOSED_RUNTIMES and set(spaces.CLOSED_RUNTIMES) <= {r.name for r in spaces.RUNTIMES}
    for name in spaces.CLOSED_RUNTIMES:
        left_open = opened({})
        assert name not in {runtime for runtime, _ in left_open.pairs} and name not in left_open.missing
        assert "eager" in left_open.knobs["runtime.name"].choices
        named = opened({"runtime": {"name": ["eager", name]}})
        assert name in {runtime for runtime, _ in named.pairs} or name in named.missing


def test_knobs_that_are_closed_are_searched_only_where_they_are_named() -> None:
    closed = {f"{a.name}.{k.name}" for a in spaces.AXES for k in a.knobs(SHAPE) if k.closed or k.mode}
    assert {"prune.flops", "low_rank.embeddings", "bits.wide"} <= closed
    assert not closed & set(opened({}).searched)
    assert "prune.flops" in opened({"prune": {"flops": [0.5, 1.0]}}).searched
