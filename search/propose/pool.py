"""The candidates that the sampler compares: random settings, mutations of good settings, and crossovers of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spaces.knob import Knob, Value

GridIndices = NDArray[np.int64]

#: Grid points of a knob without steps.
POINTS = 17
#: Shares of a pool: random rows and mutations; the rest are crossovers.
RANDOM_SHARE, MUTATED_SHARE = 0.5, 0.3


class Grid:
    """The knobs as one grid: a row holds the index of each knob's value, and has features in the unit cube."""

    def __init__(self, knobs: Mapping[str, Knob]) -> None:
        self._knobs = dict(knobs)
        self.values: dict[str, list[Value]] = {name: _points(knob) for name, knob in knobs.items()}
        self.counts = np.array([len(values) for values in self.values.values()], dtype=np.int64)

    def __len__(self) -> int:
        """The number of settings on the grid."""
        size = 1
        for count in self.counts.tolist():
            size *= count
        return size

    def settings(self, row: Sequence[int] | GridIndices) -> dict[str, Value]:
        """The settings of a row (D,) of indices."""
        return {name: values[int(i)] for (name, values), i in zip(self.values.items(), row, strict=True)}

    def holds(self, settings: Mapping[str, Value]) -> bool:
        """Whether every setting is one that the knobs allow."""
        return all(_holds(knob, self.values[name], settings[name]) for name, knob in self._knobs.items())

    def indices(self, settings: Mapping[str, Value]) -> GridIndices:
        """The row nearest to `settings`, which the grid `holds`."""
        return np.array([_nearest(values, settings[name]) for name, values in self.values.items()], dtype=np.int64)

    def nearest(self, settings: Mapping[str, Value]) -> GridIndices:
        """The row nearest to any `settings`; an unknown choice becomes the first one."""
        indices = [
            _nearest(values, settings[name]) if knob.ordered or settings[name] in values else 0
            for (name, values), knob in zip(self.values.items(), self._knobs.values(), strict=True)
        ]
        return np.array(indices, dtype=np.int64)

    def features(self, rows: GridIndices) -> NDArray[np.float64]:
        """(N, D): ordered knobs scaled to [0, 1] (logarithms for logarithmic ones), choices one-hot."""
        columns = []
        for position, (name, knob) in enumerate(self._knobs.items()):
            chosen = rows[:, position]
            if knob.ordered:
                numbers = np.array(self.values[name], dtype=float)
                numbers = np.log(numbers) if knob.log else numbers
                span = np.ptp(numbers) or 1.0
                columns.append(((numbers - numbers.min()) / span)[chosen][:, None])
            else:
                columns.append(np.eye(len(self.values[name]))[chosen])
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(rows), 0))

    def random(self, count: int, rng: np.random.Generator) -> GridIndices:
        """(count, D) uniformly drawn rows."""
        return rng.integers(0, self.counts, size=(count, len(self.counts)))

    def mutated(self, good: GridIndices, count: int, rng: np.random.Generator) -> GridIndices:
        """(count, D): copies of good rows with one or two settings moved by one or two steps, or to any value."""
        mutated = good[rng.integers(len(good), size=count)].copy()
        rows = np.arange(count)
        for time in range(2):
            where = rng.integers(len(self.counts), size=count)
            step = rng.choice([-2, -1, 1, 2], size=count)
            near = np.clip(mutated[rows, where] + step, 0, self.counts[where] - 1)
            anywhere = rng.integers(0, self.counts[where])
            moved = np.where(rng.random(count) < 0.75, near, anywhere)
            here = rng.random(count) < (1.0 if time == 0 else 0.5)
            mutated[rows[here], where[here]] = moved[here]
        return mutated

    def crossovers(self, good: GridIndices, count: int, rng: np.random.Generator) -> GridIndices:
        """(count, D): rows with each setting from one of two good rows (uniform crossover)."""
        one, other = (good[rng.integers(len(good), size=count)] for _ in range(2))
        rows: GridIndices = np.where(rng.random(one.shape) < 0.5, one, other)
        return rows

    def pool(self, good: GridIndices, count: int, rng: np.random.Generator) -> GridIndices:
        """(about `count`, D) different rows; the whole grid where it is not larger."""
        if len(self) <= count:
            return np.stack(np.unravel_index(np.arange(len(self)), self.counts.tolist()), axis=1).astype(np.int64)
        if len(good) == 0:
            return np.unique(self.random(count, rng), axis=0)
        random, mutated = round(RANDOM_SHARE * count), round(MUTATED_SHARE * count)
        parts = [
            self.random(random, rng),
            self.mutated(good, mutated, rng),
            self.crossovers(good, count - random - mutated, rng),
        ]
        return np.unique(np.concatenate(parts), axis=0)


def _points(knob: Knob) -> list[Value]:
    if not knob.ordered or knob.step is not None or knob.low == knob.high:
        return knob.values()
    assert knob.low is not None and knob.high is not None
    spaced = np.geomspace(knob.low, knob.high, POINTS) if knob.log else np.linspace(knob.low, knob.high, POINTS)
    return list(dict.fromkeys(knob.tidy(float(v)) for v in spaced))


def _holds(knob: Knob, values: Sequence[Value], wanted: Value) -> bool:
    if wanted in values:
        return True
    if not knob.ordered or isinstance(wanted, str):
        return False
    assert knob.low is not None and knob.high is not None
    return knob.step is None and knob.low <= wanted <= knob.high


def _nearest(values: Sequence[Value], wanted: Value) -> int:
    if wanted in values:
        return values.index(wanted)
    if isinstance(wanted, str):
        raise ValueError(f"must be one of {', '.join(map(str, values))}, got {wanted}")
    return min(range(len(values)), key=lambda i: abs(float(values[i]) - float(wanted)))
