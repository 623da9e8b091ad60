"""Notes on an unusual distribution of labels in a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search.errors import listed, show

MOST_OF_A_LABEL = 0.8  # share of the training rows above which one label is noted
FEWEST = 10  # training rows below which a label is noted


def balance_notes(labels: Mapping[str, np.ndarray], names: Sequence[str]) -> list[str]:
    """Notes on the labels of every split: (N,) numbers of labels, or (N, C) int8 0 and 1; of other targets none."""
    train = labels["train"]
    if train.dtype.kind == "f" or (train.ndim > 1 and train.dtype != np.int8):
        return []
    counts = {split: _counts(part, len(names)) for split, part in labels.items()}
    notes = []
    most = int(counts["train"].argmax())
    share = counts["train"][most] / len(train)
    if share > MOST_OF_A_LABEL:
        notes.append(f"{share:.1%} of the training rows have the label {show(names[most])}")
    few = [f"{show(names[i])} ({count})" for i, count in enumerate(counts["train"]) if 0 < count < FEWEST]
    if few:
        notes.append(f"labels with fewer than {FEWEST} training rows: {listed(few, 10)}")
    somewhere = sum(counts.values()) > 0
    for split, rows in counts.items():
        lacking = [show(names[i]) for i in np.flatnonzero(somewhere & (rows == 0)).tolist()]
        if lacking:
            notes.append(f"{split} has no rows of the label{'s' * (len(lacking) > 1)} {listed(lacking, 10)}")
    return notes


def _counts(labels: np.ndarray, size: int) -> np.ndarray:
    """(C,): the number of rows with each label."""
    return np.bincount(labels, minlength=size) if labels.ndim == 1 else labels.sum(0)
