"""Geometry of points in objective space; every coordinate is to be minimised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates; of equal points the first. Cost: O(n^2)."""
    return [
        i
        for i, p in enumerate(points)
        if not any(dominates(q, p) or (j < i and tuple(q) == tuple(p)) for j, q in enumerate(points))
    ]


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """Volume that `points` dominate up to `reference`; exact for any number of objectives.

    Slices along the last objective (Zitzler & Thiele, 1998): between two levels, the section is the
    hypervolume, one objective less, of the points at or below. O(n^k) for n points and k objectives. By hand: that of
    Optuna is private.
    """
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    levels = [*sorted({p[-1] for p in inside}), reference[-1]]
    return sum(
        (high - low) * hypervolume([p[:-1] for p in inside if p[-1] <= low], reference[:-1])
        for low, high in pairwise(levels)
    )


def knee(points: Sequence[Point]) -> int:
    """Index of the knee: of the points between the extremes the one farthest towards the ideal point.

    Each objective is scaled to [0, 1] over `points`; the distance is that below the line (plane) through the
    scaled extremes (Das, 1999, "On characterizing the knee of the Pareto curve"), which orders points as the
    sum of their scaled coordinates does. Without a point in between, the first extreme.
    """
    columns = list(zip(*points, strict=True))
    spans = [(max(c) - min(c)) or 1.0 for c in columns]
    heights = [sum((x - min(c)) / s for x, c, s in zip(p, columns, spans, strict=True)) for p in points]
    extremes = {c.index(min(c)) for c in columns}
    between = [i for i in range(len(points)) if i not in extremes] or range(len(points))
    return min(between, key=heights.__getitem__)
