"""The stages of a search that run in processes of their own: each fills one folder of the store.

Every function takes the folder to fill first and `progress(stage, done)` last, and pickles by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from objectives.process import Progress
from search.calibrate import calibrate
from search.config import RunConfig
from search.encoded import epochs, held_out_loss, read_encoded, rows_of, write_encoded
from search.errors import UserError
from search.looks import FILE as LOOKS
from search.looks import look, looked_at, recover_with_looks
from search.model_folder import model_folder
from search.tasks import task_named
from search.tasks.text import tokenizer
from search.trained_head import trained_head
from spaces.axis import Infeasible, Value

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from spaces.base import TaskModel
    from spaces.recipe import Step

SPLITS = ("train", "validation", "test")
STATISTICS_ROWS = 1024
REFERENCE_ROWS = 64


# --- data ---------------------------------------------------------------------------------------------------


def prepare_data(folder: Path, config: RunConfig, progress: Progress) -> None:
    """Read, check and tokenise the data: `<split>.npz`, `labels.json`, and the tokenizer's own files."""
    from transformers import AutoConfig

    progress("reading data", 0.0)
    task = task_named(config.task)
    source = model_folder(config)
    described = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    splits = task.load(config.data, config.where, trained_head(config, described, source))
    made_by = tokenizer(source, config.where("model.name"))
    for number, name in enumerate(SPLITS):
        split = getattr(splits, name)
        write_encoded(folder / f"{name}.npz", task.encode(made_by, split, config.data.max_length), split.labels)
        progress("reading data", (number + 1) / len(SPLITS))
    made_by.save_pretrained(folder / "tokenizer")
    about = {
        "labels": list(splits.labels),
        "digest": splits.digest,
        "notes": list(splits.notes),
        "pairs": splits.train.pairs is not None,
        "rows": {name: len(getattr(splits, name)) for name in SPLITS},
    }
    (folder / "data.json").write_text(json.dumps(about, indent=1, ensure_ascii=False))


# --- teacher ------------------------------------------------------------------------------------------------


def make_shape(folder: Path, config: RunConfig, progress: Progress) -> None:
    """`shape.json`: the base model's sizes, from its config.json alone; `unknown.txt` when they are not known."""
    import torch
    from transformers import AutoConfig, AutoModel

    from spaces.anatomy import anatomy_of

    described = AutoConfig.from_pretrained(model_folder(config), local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModel.from_config(described, trust_remote_code=False)
    try:
        (folder / "shape.json").write_text(json.dumps(asdict(anatomy_of(model).shape)))
    except Infeasible as reason:
        (folder / "unknown.txt").write_text(str(reason))


def make_teacher(
    folder: Path, config: RunConfig, data: Path, device: str, threads: int, scratch: Path, progress: Progress
) -> None:
    """The uncompressed model, fine-tuned on the training split (unless `teacher.epochs` is 0), as a model folder.

    The training goes on from the file `scratch`, where it keeps its state.
    """
    from spaces.base import ModelError, load_base, write_folder
    from spaces.checkpoints import Checkpoints
    from spaces.training import Training, fit

    torch = torch_with(threads)
    about = json.loads((data / "data.json").read_text())
    source = model_folder(config)
    torch.manual_seed(config.seed)
    try:
        model, base = load_base(
            source, config.model.name, config.model.revision, config.model.head, about["labels"], about["pairs"]
        )
    except ModelError as error:
        raise UserError(f"{config.where('model.name')}: {error}") from None
    if config.teacher.epochs > 0:
        encoded, labels = read_encoded(data / "train.npz")
        known = torch.from_numpy(labels)
        task = task_named(config.task)
        settings = asdict(config.teacher)

        def loss(student: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
            return task.loss({"logits": student(**inputs)}, known[rows].to(inputs["input_ids"].device))

        patience = settings.pop("early_stopping")
        rows, held_out = rows_of(len(encoded), config.seed, None, patience is not None)
        epoch = epochs(encoded, base.inputs, config.teacher.batch, config.seed, rows)
        stopping = held_out_loss(loss, encoded, base.inputs, held_out, patience)
        training = Training(**settings, seed=config.seed)
        fit(model, epoch, loss, training, device, partial(progress, "teacher"), stopping, Checkpoints(scratch))
    write_folder(folder, model, base, {})
    _finish(folder, model, base.inputs, data)


def make_statistics(
    folder: Path, config: RunConfig, data: Path, teacher: Path, device: str, threads: int, progress: Progress
) -> None:
    """Statistics of the teacher on training rows; `unknown.txt` instead when its anatomy is not known.

    The passes run on `device`; what is stored is on the CPU.
    """
    from spaces import build
    from spaces.statistics import collect

    torch = torch_with(threads)
    model = build.load(teacher).to(device)
    encoded, labels = read_encoded(data / "train.npz")
    known = torch.from_numpy(labels)
    task = task_named(config.task)
    rows, _ = rows_of(len(encoded), config.seed, STATISTICS_ROWS)
    batches = epochs(encoded, input_names(teacher), 32, config.seed, rows)(0)
    try:
        found = collect(
            model,
            (({n: t.to(device) for n, t in inputs.items()}, known[rows].to(device)) for inputs, rows in batches),
            lambda logits, wanted: task.loss({"logits": logits}, wanted),
            partial(progress, "statistics"),
        )
    except Infeasible as reason:
        (folder / "unknown.txt").write_text(str(reason))
        return
    found.save(folder / "statistics.safetensors")


# --- weights ------------------------------------------------------------------------------------------------


def make_weights(
    folder: Path,
    config: RunConfig,
    steps: Sequence[Step],
    recover: Mapping[str, Value],
    data: Path,
    teacher: Path,
    statistics: Path,
    outputs: Path,
    device: str,
    threads: int,
    scratch: Path,
    shares: Sequence[float],
    progress: Progress,
) -> None:
    """One set of compressed weights: plans from the statistics, weights from the teacher, then recovery.

    The recovery is looked at after each of `shares` of it. Where the last is below 1 that is all that is written, and
    the training's state to `scratch`, where the next call for these weights goes on.
    """
    from spaces import build
    from spaces.base import read_config, write_folder
    from spaces.statistics import Statistics

    torch = torch_with(threads)
    progress("compressing", 0.0)
    known = Statistics.load(statistics / "statistics.safetensors")
    plans = build.decide(steps, known)
    torch.manual_seed(config.seed)
    model = build.build(build.load(teacher), plans, known)
    base, _ = read_config(teacher)
    if recover:
        from search.teaching import Recovery

        recovery = Recovery(plans, recover, config, data, teacher, outputs, device, base.inputs, scratch, progress)
        seen = recover_with_looks(
            shares,
            partial(look, model, config, data, base.inputs, device),
            partial(recovery.train, model),
            scratch.with_suffix(".looks"),
            looked_at(config),
        )
        seen.write(folder / LOOKS)
        if shares[-1] < 1:
            return
    write_folder(folder, model, base, plans)
    _finish(folder, model, base.inputs, data)


def make_untrained(
    folder: Path, steps: Sequence[Step], data: Path, teacher: Path, statistics: Path, threads: int, progress: Progress
) -> None:
    """A model of the planned shape with arbitrary weights, which takes the time of a trained one: nothing is filled."""
    from spaces import axis, build
    from spaces.base import read_config, skeleton, write_folder
    from spaces.statistics import Statistics

    torch = torch_with(threads)
    progress("an untrained copy", 0.0)
    plans = build.decide(steps, Statistics.load(statistics / "statistics.safetensors"))
    base, _ = read_config(teacher)
    torch.manual_seed(0)
    model = skeleton(base)
    for name, plan in plans.items():
        axis(name).reshape(model, plan)
    write_folder(folder, model, base, plans)
    calibrate(folder, model, base.inputs, data)


def _finish(folder: Path, model: TaskModel, names: Sequence[str], data: Path) -> None:
    """The tokenizer, the parameter count, logits on a few validation rows (what parity is checked against), and what
    integer widths are made with."""
    import shutil

    import torch

    shutil.copytree(data / "tokenizer", folder, dirs_exist_ok=True)
    encoded, _ = read_encoded(data / "validation.npz")
    rows = np.arange(min(REFERENCE_ROWS, len(encoded)))
    model.eval()
    with torch.inference_mode():
        logits = [model(**_tensors(encoded.batch(rows[i : i + 1]), names)).numpy() for i in range(len(rows))]
    np.save(folder / "reference.npy", np.concatenate(logits))
    count = sum(p.numel() for p in model.parameters())
    (folder / "about.json").write_text(json.dumps({"params": count}))
    calibrate(folder, model, names, data)


def _tensors(batch: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, torch.Tensor]:
    import torch

    return {n: torch.from_numpy(batch[n]) for n in names}


def input_names(folder: Path) -> tuple[str, ...]:
    """Names of the tensors the stored model takes."""
    from spaces.base import read_config

    return read_config(folder)[0].inputs


def vocabulary(folder: Path) -> int:
    """How many token ids the stored model knows."""
    from spaces.base import read_config

    return int(read_config(folder)[0].config["vocab_size"])


def torch_with(threads: int) -> Any:
    import torch

    if threads:
        torch.set_num_threads(threads)
    return torch
