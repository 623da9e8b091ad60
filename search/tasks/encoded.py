"""Tokenised rows on disk, and the batches an epoch takes from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from search.tasks.tokens import Encoded, by_length

if TYPE_CHECKING:
    from spaces.base import TaskModel
    from spaces.early_stopping import Stopping
    from spaces.training import TrainingBatch


def write_encoded(path: Path, encoded: Encoded, labels: np.ndarray) -> None:
    """Token ids as one flat array a column, with the lengths that cut it into rows."""
    np.savez(path, labels=labels, **_to_arrays(encoded))  # type: ignore[arg-type]


def read_encoded(path: Path) -> tuple[Encoded, np.ndarray]:
    """The rows and labels that `write_encoded` wrote."""
    with np.load(path, allow_pickle=False) as data:
        return _from_arrays(data), data["labels"]


def _to_arrays(encoded: Encoded) -> dict[str, np.ndarray]:
    """The rows as flat arrays by their names in a file."""
    flat = {f"ids.{n}": np.concatenate(rows).astype(np.int32) for n, rows in encoded.columns.items()}
    padding = {f"pad.{n}": np.array(value) for n, value in encoded.padding.items()}
    return {"lengths": encoded.lengths, **flat, **padding}


def _from_arrays(data: Mapping[str, np.ndarray]) -> Encoded:
    """The inverse of `_to_arrays`."""
    lengths = data["lengths"]
    names = [n.removeprefix("ids.") for n in data if n.startswith("ids.")]
    cuts = np.cumsum(lengths)[:-1]
    columns = {n: np.split(data[f"ids.{n}"].astype(np.int64), cuts) for n in names}
    padding = {n: int(data[f"pad.{n}"]) for n in names}
    return Encoded(columns, padding, lengths)


@dataclass(frozen=True)
class EncodedRows:
    """What all `Rows` of texts with one reference each have in common."""

    encoded: Encoded
    references: np.ndarray  # (N,) or (N, C)
    labels: tuple[str, ...]  # the name of each output

    @property
    def classes(self) -> int:
        return len(self.labels)

    def __len__(self) -> int:
        return len(self.references)

    @property
    def calls(self) -> np.ndarray:
        return self.encoded.one_each

    def write(self, folder: Path, name: str) -> None:
        write_encoded(folder / f"{name}.npz", self.encoded, self.references)

    def chosen(self, rows: np.ndarray) -> Self:
        """The rows at these indices (n,)."""
        return replace(self, encoded=self.encoded.chosen(rows), references=self.references[rows])


#: Share of the training rows, and most of them, that early stopping holds out.
HELD_OUT, MOST_HELD_OUT = 0.05, 512


def training_rows(count: int, seed: int, limit: int | None, stopping: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(rows to train on, rows held out) of `count`: the first `limit` of a fixed shuffle, and its end."""
    order = np.random.default_rng(seed).permutation(count)
    held_out = min(MOST_HELD_OUT, round(HELD_OUT * count)) if stopping else 0
    return order[: count - held_out][:limit], order[count - held_out :]


def held_out_loss(
    loss: Any, encoded: Encoded, names: Sequence[str], rows: np.ndarray, patience: int | None
) -> Stopping | None:
    """Early stopping by `loss` on `rows`; None without patience."""
    if patience is None:
        return None
    import torch

    from spaces.early_stopping import Stopping

    order = rows[by_length(encoded.lengths[rows], 32)]
    batches = Lazy(encoded, names, [order[i : i + 32] for i in range(0, len(order), 32)])

    def mean(model: TaskModel) -> float:
        device = next(model.parameters()).device
        total = 0.0
        with torch.no_grad():
            for inputs, chosen in (batches[i] for i in range(len(batches))):
                moved = {name: tensor.to(device) for name, tensor in inputs.items()}
                total += float(loss(model, moved, chosen)) * len(chosen)
        return total / len(order)

    return Stopping(mean, patience)


def epochs(
    encoded: Encoded, names: Sequence[str], batch: int, seed: int, chosen: np.ndarray
) -> Callable[[int], Sequence[TrainingBatch]]:
    """`epoch(i)` -> lazily padded, length-bucketed batches of epoch i over the `chosen` rows."""

    def epoch(number: int) -> Sequence[TrainingBatch]:
        return Lazy(encoded, names, _batches(encoded, batch, seed, chosen, number))

    return epoch


def _batches(encoded: Encoded, batch: int, seed: int, chosen: np.ndarray, number: int) -> list[np.ndarray]:
    """The rows of each batch of epoch `number`."""
    rng = np.random.default_rng((seed, number))
    order = chosen[by_length(encoded.lengths[chosen], batch, rng)]
    return [order[i : i + batch] for i in range(0, len(order), batch)]


def trained_on(encoded: Encoded, batch: int, seed: int, chosen: np.ndarray, share: float) -> np.ndarray:
    """The `chosen` rows that training for `share` epochs uses; fewer than all for less than one epoch."""
    if share >= 1:
        return chosen
    batches = _batches(encoded, batch, seed, chosen, 0)
    return np.concatenate(batches[: max(1, round(share * len(batches)))])


class Lazy(Sequence["TrainingBatch"]):
    """Batches that are padded on access, so that an epoch is not held in memory twice."""

    def __init__(self, encoded: Encoded, names: Sequence[str], rows: list[np.ndarray]) -> None:
        self._encoded, self._names, self._rows = encoded, names, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        import torch

        if isinstance(index, slice):
            return Lazy(self._encoded, self._names, self._rows[index])
        rows = self._rows[index]
        batch = self._encoded.batch(rows)
        return {n: torch.from_numpy(batch[n]) for n in self._names}, torch.from_numpy(rows)
