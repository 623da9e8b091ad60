"""Regression: one text, or a pair of texts, and one number."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from search.errors import Where
from search.tasks.classification import Classification
from search.tasks.encoded import EncodedRows
from search.tasks.numbers import read_numbers
from search.tasks.parity_rule import NUMBER_PARITY
from search.tasks.rows import read_splits
from search.tasks.task import ConstantGuess, Rows, Splits
from search.tasks.tokens import Encoded

if TYPE_CHECKING:
    import torch

    from search.tasks.rows import LabelledData
    from search.tasks.trained_labels import TrainedLabels
    from spaces.base import TaskModel


@dataclass(frozen=True)
class NumberRows(EncodedRows):
    """`Rows` of texts with a number each, references (N,) float64; outputs are (N, 1), in the data's unit.

    `labels` holds the name of the output.
    """

    @property
    def classes(self) -> int:
        return 0

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        """(N,) float64."""
        return output[:, 0].astype(np.float64)

    def constant_guess(self, metric: str) -> ConstantGuess:
        mean = float(self.references.mean())
        return ConstantGuess(np.full_like(self.references, mean), f"where every row is given their mean, {mean:.4g}")

    def problem(self) -> str:
        if len(np.unique(self.references)) > 1:
            return ""
        return f"must have rows with different numbers, got {len(self)} rows of {self.references[0]:g}"

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        """The root of the mean squared error, in the data's unit."""
        return {"rmse": float(np.sqrt(np.square(predictions - self.references).mean()))}


class Regression(Classification):
    """Numbers. Models give "logits" (B, 1), in the data's unit.

    Errors are counted in standard deviations of the training rows, so that the weights of losses mean the same for any
    unit.
    """

    problem_type = "regression"
    parity = NUMBER_PARITY
    metrics = ("pearson", "spearman", "r_squared", "rmse")
    rows: Callable[[Encoded, np.ndarray, tuple[str, ...]], Rows] = NumberRows

    def __init__(self, mean: float = 0.0, scale: float = 1.0) -> None:
        self.mean, self.scale = mean, scale

    def fitted(self, targets: np.ndarray) -> Self:
        """With the mean and the standard deviation of training rows with these numbers."""
        return type(self)(float(targets.mean()), float(targets.std()))

    def unusable(self, problem_type: str | None, outputs: int) -> str:
        if problem_type not in (None, "regression"):
            return super().unusable(problem_type, outputs)
        if outputs == 1:
            return ""
        return f"the model's head gives {outputs} numbers a text, not one; set model.head: mean for a new head"

    def load(self, data: LabelledData, where: Where = str, trained: TrainedLabels | None = None) -> Splits:
        return read_splits(data, where, trained, read_numbers)

    def loss(self, output: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        from spaces.losses import number_loss

        return number_loss(output, targets[:, None], mask, self.scale)

    def soft_loss(
        self, output: torch.Tensor, taught: torch.Tensor, mask: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """The squared difference to the teacher's; `temperature` has no meaning here."""
        from spaces.losses import number_loss

        return number_loss(output, taught, mask, self.scale)

    def divergence(self, output: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        from spaces.losses import number_divergence

        return number_divergence(output, other, mask, self.scale)

    def certainty(self, output: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The output itself."""
        return output.float().sum() / self.scale

    def training(self, model: TaskModel, fresh: bool) -> AbstractContextManager[None]:
        """The head learns standardised numbers."""
        from spaces.standardised import standardised

        return standardised(model, self.mean, self.scale, fresh)
