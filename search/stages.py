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
from objectives.workload import Frame
from search.calibrate import calibrate
from search.config import RunConfig
from search.encoded import epochs, held_out_loss, read_encoded, rows_of, write_encoded
from search.looks import FILE as LOOKS
from search.looks import look, looked_at, recover_with_looks
from search.model_facts import ModelFacts, blaming, check_fit, check_tokens, facts_of, longest_row, outline
from search.model_folder import model_folder
from search.tasks import Splits, task_named
from search.tasks.text import Encoded, frame_of, tokenizer
from search.trained_head import trained_head
from spaces.axis import Infeasible, Value
from spaces.loading import model_config, try_out

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from spaces.base import Base, TaskModel
    from spaces.recipe import Step

SPLITS = ("train", "validation", "test")
STATISTICS_ROWS = 1024
REFERENCE_ROWS = 64


# --- the model as it came -----------------------------------------------------------------------------------


def describe_model(folder: Path, config: RunConfig, progress: Progress) -> None:
    """From the base model's config.json and tokenizer alone: `facts.json`, and `shape.json` with the sizes that axes
    decide over; `unknown.txt` instead of it where they are not known."""
    from spaces.anatomy import anatomy_of

    source = model_folder(config)
    facts_of(source, config).write(folder)
    with blaming(config.where("model.name")):
        model = outline(source, config.model.name)
    try:
        (folder / "shape.json").write_text(json.dumps(asdict(anatomy_of(model).shape)))
    except Infeasible as reason:
        (folder / "unknown.txt").write_text(str(reason))


# --- data ---------------------------------------------------------------------------------------------------


def prepare_data(folder: Path, config: RunConfig, model: Path, progress: Progress) -> None:
    """Read, check and tokenise the data: `<split>.npz`, `data.json`, and the tokenizer's own files.

    `model` is the folder that `describe_model` filled.
    """
    facts = ModelFacts.read(model)
    notes = check_fit(config, facts)
    progress("reading data", 0.0)
    task = task_named(config.task)
    source = model_folder(config)
    splits = numbered_splits(config, source)
    made_by = cutting_tokenizer(config, source, facts)
    for number, name in enumerate(SPLITS):
        split = getattr(splits, name)
        encoded = task.encode(made_by, split, config.data.max_length)
        check_tokens(encoded, split, name, config)
        write_encoded(folder / f"{name}.npz", encoded, split.labels)
        progress("reading data", (number + 1) / len(SPLITS))
    made_by.save_pretrained(folder / "tokenizer")
    about = {
        "labels": list(splits.labels),
        "digest": splits.digest,
        "notes": [*splits.notes, *notes],
        "pairs": splits.train.pairs is not None,
        "frame": frame_of(made_by, splits.train.pairs is not None),
        "rows": {name: len(getattr(splits, name)) for name in SPLITS},
    }
    (folder / "data.json").write_text(json.dumps(about, indent=1, ensure_ascii=False))


def numbered_splits(config: RunConfig, source: Path) -> Splits:
    """The data, with the label numbers of the model in `source` where its own head is used."""
    with blaming(config.where("model.name")):
        described = model_config(source, config.model.name)
    return task_named(config.task).load(config.data, config.where, trained_head(config, described, source))


def cutting_tokenizer(config: RunConfig, source: Path, facts: ModelFacts) -> Any:
    """The tokenizer of the model in `source`; it cuts rows where the model does, also in an exported folder."""
    made = tokenizer(source, config.where("model.name"))
    made.model_max_length = longest_row(config, facts)[0]
    return made


# --- teacher ------------------------------------------------------------------------------------------------


def load_and_try(
    config: RunConfig, source: Path, labels: Sequence[str], frame: Mapping[str, Any], encoded: Encoded
) -> tuple[TaskModel, Base]:
    """The base model with its head, in eval mode, tried on a few of the rows. Raises UserError: it cannot be used."""
    from spaces.base import load_base

    named = config.model
    with blaming(config.where("model.name")):
        model, base = load_base(source, named.name, named.revision, named.head, labels, frame)
        try_out(model.eval(), _tensors(some_rows(encoded), base.inputs), len(base.labels), named.name)
    return model, base


def make_teacher(
    folder: Path, config: RunConfig, data: Path, device: str, threads: int, scratch: Path, progress: Progress
) -> None:
    """The uncompressed model, fine-tuned on the training split (unless `teacher.epochs` is 0), as a model folder.

    The training goes on from the file `scratch`, where it keeps its state.
    """
    from spaces.base import write_folder
    from spaces.checkpoints import Checkpoints
    from spaces.training import Training, fit

    torch = torch_with(threads)
    about = json.loads((data / "data.json").read_text())
    source = model_folder(config)
    torch.manual_seed(config.seed)
    encoded, labels = read_encoded(data / "train.npz")
    model, base = load_and_try(config, source, about["labels"], about["frame"], encoded)
    if config.teacher.epochs > 0:
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


def some_rows(encoded: Encoded) -> dict[str, np.ndarray]:
    """A short and a long row of the first few, as one padded batch."""
    lengths = encoded.lengths[:REFERENCE_ROWS]
    return encoded.batch(np.array([lengths.argmin(), lengths.argmax()]))


def _tensors(batch: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, torch.Tensor]:
    import torch

    return {n: torch.from_numpy(batch[n]) for n in names}


def input_names(folder: Path) -> tuple[str, ...]:
    """Names of the tensors the stored model takes."""
    from spaces.base import read_config

    return read_config(folder)[0].inputs


def frame_in(folder: Path) -> Frame:
    """How the stored model's tokenizer frames texts; of a folder that says nothing, any token id but the first."""
    from spaces.base import read_config

    base, _ = read_config(folder)
    return Frame.of(base.frame) if base.frame else Frame(int(base.config["vocab_size"]))


def torch_with(threads: int) -> Any:
    import torch

    if threads:
        torch.set_num_threads(threads)
    return torch
