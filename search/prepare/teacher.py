"""Stage "teacher": the uncompressed model, with its head trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives.process import Progress
from search.config.model_folder import model_folder
from search.config.schema import RunConfig
from search.errors import UserError
from search.prepare.divergence import diverged
from search.prepare.model_facts import blaming
from search.tasks import task_of
from search.tasks.encoded import epochs, held_out_loss, read_encoded, training_rows
from search.tasks.tokens import Encoded
from spaces.loading import model_config, try_out

if TYPE_CHECKING:
    from torch import Tensor

    from spaces.base import Base, TaskModel
from search.prepare.folders import finish_folder, some_rows, tensors, torch_with


def load_and_try(
    config: RunConfig, source: Path, output_names: Sequence[str], frame: Mapping[str, Any], encoded: Encoded
) -> tuple[TaskModel, Base]:
    """The base model with its head, in eval mode, tried on a few of the rows. Raises UserError if unusable."""
    from spaces.base import load_base

    named, task = config.model, task_of(config)
    with blaming(config.where("model.name")):
        head = task.head(named, model_config(source, named.name))
        problem = named.problem_type
        model, base = load_base(source, named.name, named.revision, head, output_names, frame, problem)
        outputs = len(output_names) or task.outputs
        try_out(model.eval(), tensors(some_rows(encoded), base.inputs), outputs, named.name, base.per_token)
    return model, base


def make_teacher(
    folder: Path, config: RunConfig, data: Path, device: str, threads: int, scratch: Path, progress: Progress
) -> None:
    """Write the uncompressed model, fine-tuned on the training split unless `teacher.epochs` is 0, as a model folder.

    The training stores its state in the file `scratch`, and resumes from it.

    Raises:
        UserError: it diverges; names the learning rates.
    """
    from spaces.base import write_folder
    from spaces.checkpoints import Checkpoints
    from spaces.training import Training, train

    torch = torch_with(threads)
    about = json.loads((data / "data.json").read_text(encoding="utf-8"))
    source = model_folder(config.model, config.where)
    torch.manual_seed(config.seed)
    encoded, targets = read_encoded(data / "train.npz")
    task = task_of(config, targets)
    model, base = load_and_try(config, source, about["labels"], about["frame"], encoded)
    if config.teacher.epochs > 0:
        all_targets = torch.from_numpy(targets)
        settings = asdict(config.teacher)

        def loss(student: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
            wanted = all_targets[rows].to(inputs["input_ids"].device)
            return task.loss(student(**inputs), wanted, inputs["attention_mask"])

        patience = settings.pop("early_stopping")
        rows, held_out = training_rows(len(encoded), config.seed, None, patience is not None)
        epoch = epochs(encoded, base.inputs, config.teacher.batch, config.seed, rows)
        stopping = held_out_loss(loss, encoded, base.inputs, held_out, patience)
        hyper = Training(**settings, seed=config.seed)
        with task.training(model, fresh=base.head == "mean"):
            try:
                train(model, epoch, loss, hyper, device, partial(progress, "teacher"), stopping, Checkpoints(scratch))
            except FloatingPointError as error:
                raise UserError(diverged(config, "teacher", error)) from error
    write_folder(folder, model, base, {})
    finish_folder(folder, model, base.inputs, data, task)
