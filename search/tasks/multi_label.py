"""Text classification with several labels a text, or none: each label is an independent binary decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import Where, listed, show
from search.tasks.classification import Classification
from search.tasks.encoded import EncodedRows
from search.tasks.label_sets import label_sets
from search.tasks.rows import read_splits
from search.tasks.task import ConstantGuess, Rows, Splits
from search.tasks.tokens import Encoded

if TYPE_CHECKING:
    from search.tasks.rows import LabelledData
    from search.tasks.trained_labels import TrainedLabels
    from spaces.losses import Losses


@dataclass(frozen=True)
class LabelSetRows(EncodedRows):
    """`Rows` of texts with a label set each, references (N, C) int8; outputs are logits (N, C)."""

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        """The labels whose probability is above 0.5: (N, C) int8."""
        return (output > 0).astype(np.int8)

    def constant_guess(self, metric: str) -> ConstantGuess:
        from objectives.set_metrics import constant_set

        guess = constant_set(metric, self.references)
        names = listed((show(name) for name, has in zip(self.labels, guess, strict=True) if has), 5)
        return ConstantGuess(np.tile(guess, (len(self), 1)), f"where every row is given {names}")

    def problem(self) -> str:
        if len(np.unique(self.references, axis=0)) > 1:
            return ""
        only = listed((show(self.labels[i]) for i in np.flatnonzero(self.references[0])), 5) or "no label"
        return f"must have rows with different labels, got {len(self)} rows of {only}"

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        from objectives.set_metrics import per_label

        return {"classes": per_label(predictions, self.references, self.labels)}


class MultiLabel(Classification):
    """Label sets. Models give "logits" (B, C), the log odds of each label."""

    problem_type = "multi_label_classification"
    metrics = ("f1_micro", "f1_macro")
    rows: Callable[[Encoded, np.ndarray, tuple[str, ...]], Rows] = LabelSetRows

    @property
    def losses(self) -> Losses:
        from spaces.losses import LABEL_SET_LOSSES

        return LABEL_SET_LOSSES

    def load(self, data: LabelledData, where: Where = str, trained: TrainedLabels | None = None) -> Splits:
        return read_splits(data, where, trained, label_sets)
