"""Recovery: trains a compressed model to reproduce its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from objectives.process import Progress
from search.config.schema import RunConfig
from search.tasks import Task, task_of
from search.tasks.encoded import epochs, held_out_loss, read_encoded, training_rows
from search.tasks.task import TERMS
from spaces.knob import Value

if TYPE_CHECKING:
    from torch import Tensor

    from spaces.base import TaskModel
    from spaces.distillation import Distillation
from search.prepare.divergence import diverged
from search.prepare.recovery_budget import epochs_of, likeliest_of
from search.prepare.teacher_outputs import StoredTeacher


def term_weights(task: Task, settings: Mapping[str, Value]) -> tuple[float, ...]:
    """The weight of each of `TERMS`; 0 of one that does not apply to the task."""
    return tuple(float(settings[f"{term}_weight"]) if term in task.distills else 0.0 for term in TERMS)


@dataclass(frozen=True)
class Recovery:
    """The training of one student by distillation; `settings` are the recipe's."""

    plans: Mapping[str, Any]
    settings: Mapping[str, Value]
    config: RunConfig
    data: Path
    teacher: Path
    outputs: Path
    device: str
    inputs: tuple[str, ...]
    scratch: Path  # the training's state, until it is finished
    progress: Progress
    projection: Tensor | None = None  # (k, D): what a smaller embedding keeps of the teacher's

    def train(self, model: TaskModel) -> None:
        """Train `model` in place; after a kill it resumes from the state in `scratch`.

        Raises:
            FloatingPointError: it diverges; names the learning rate.
        """
        from spaces.checkpoints import Checkpoints
        from spaces.training import Training, train

        encoded, targets = read_encoded(self.data / "train.npz")
        settings, config = self.settings, self.config
        patience = int(settings["early_stopping"]) or None
        rows, held_out = training_rows(len(encoded), config.seed, config.recover.rows, patience is not None)
        tokens = int(encoded.lengths[rows].sum())
        narrower = "hidden" in self.plans.get("distill", {})
        training = Training(
            epochs=epochs_of(float(settings["epochs"]), int(settings["tokens"]) or None, tokens),
            batch=int(settings["batch"]),
            learning_rate=float(settings["learning_rate"]),
            head_learning_rate=float(settings["learning_rate"]),
            freeze_embeddings=config.teacher.freeze_embeddings and not narrower,
            dropout=bool(settings["dropout"]),
            bf16=bool(settings["bf16"]),
            seed=config.seed,
        )
        loss = self._loss(model, encoded.lengths, targets)
        epoch = epochs(encoded, self.inputs, training.batch, config.seed, rows)
        stopping = held_out_loss(loss, encoded, self.inputs, held_out, patience)
        progress = partial(self.progress, "recovery")
        with task_of(config, targets).training(model, fresh=False):
            try:
                train(model, epoch, loss, training, self.device, progress, stopping, Checkpoints(self.scratch))
            except FloatingPointError as error:
                raise FloatingPointError(diverged(config, "recover", error)) from error

    def _loss(self, model: TaskModel, lengths: np.ndarray, targets: np.ndarray) -> Distillation:
        import torch

        from spaces.anatomy import anatomy_of
        from spaces.distillation import Distillation, LossWeights
        from spaces.slicing import decode_ranges

        task = task_of(self.config, targets)
        student = self.plans.get("distill", {})
        width = student.get("hidden")
        weights = LossWeights(*term_weights(task, self.settings))
        mapped: dict[int, int] = {}
        if (
            weights.blocks > 0
        ):  # without dropped blocks each student block corresponds to the teacher's of the same index
            mapped = dict(enumerate(student.get("blocks", range(len(anatomy_of(model.backbone).blocks)))))
        count = likeliest_of(self.config)
        blocks = tuple(mapped.values())
        return Distillation(
            targets=torch.from_numpy(targets),
            teacher=StoredTeacher(
                self.outputs, lengths, self.teacher, self.device, weights, blocks, self.projection, count
            ),
            task=task.loss,
            soft=task.soft_loss,
            temperature=float(self.settings["temperature"]),
            weights=weights,
            columns=None if width is None else torch.tensor(decode_ranges(width)),
            mapped=mapped,
            likeliest=count > 0,
        )
