"""Early stopping: when a training ends before its last step, and which weights it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from spaces.base import TaskModel


@dataclass(frozen=True, slots=True)
class Stopping:
    """Early stopping: the loss on held-out rows, evaluated every `each` epochs.

    Training ends after `patience` evaluations in a row without a lower loss, and keeps the best weights (Prechelt
    1998, "Early Stopping - But When?").
    """

    loss: Callable[[TaskModel], float]
    patience: int
    each: float = 0.25


class Best:
    """The weights with the lowest held-out loss so far, evaluated every `every` steps."""

    def __init__(self, stopping: Stopping, every: int) -> None:
        self._stopping, self.every = stopping, every
        self._loss, self._worse = float("inf"), 0
        self.weights: dict[str, Tensor] = {}  # empty until the first evaluation
        self.ended = False

    @property
    def patience(self) -> int:
        """Evaluations in a row without a lower loss that end the training."""
        return self._stopping.patience

    def over(self, model: TaskModel, step: int, total: int) -> bool:
        """Evaluate after `step` of `total` if it is due; returns whether training should end."""
        if step % self.every and step < total:
            return False
        training = model.training
        model.eval()
        loss = self._stopping.loss(model)
        model.train(training)
        if loss < self._loss:
            self._loss, self._worse = loss, 0
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        else:
            self._worse += 1
        self.ended = self._worse >= self._stopping.patience
        return self.ended

    def restore(self, model: TaskModel) -> None:
        """Load the best weights into `model`, if there was an evaluation."""
        if self.weights:
            model.load_state_dict(self.weights)

    def facts(self) -> dict[str, Any]:
        """Its state besides `weights`, as JSON."""
        return {"loss": self._loss, "worse": self._worse, "ended": self.ended}

    def resume(self, facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Continue from the `facts` and `weights` of an earlier process."""
        self._loss, self._worse, self.ended = facts["loss"], facts["worse"], facts["ended"]
        self.weights = dict(weights)
