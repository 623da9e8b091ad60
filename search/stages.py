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
from search.encoded import epochs, read_encoded, write_encoded
from search.errors import UserError
from search.model_folder import model_folder
from search.tasks import task_named
from search.tasks.text import by_length, tokenizer
from spaces.axis import Infeasible, Value

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from spaces.base import TaskModel
    from spaces.recipe import Step

SPLITS = ("train", "validation", "test")
STATISTICS_ROWS = 1024
REFERENCE_ROWS = 64
#: Above this the teacher's hidden states are computed as they are needed instead of stored.
STORED_HIDDEN_BYTES = 2 * 10**9


# --- data ---------------------------------------------------------------------------------------------------


def prepare_data(folder: Path, config: RunConfig, progress: Progress) -> None:
    """Read, check and tokenise the data: `<split>.npz`, `labels.json`, and the tokenizer's own files."""
    from transformers import AutoConfig

    from spaces.base import has_own_head

    progress("reading data", 0.0)
    task = task_named(config.task)
    splits = task.load(config.data, config.where)
    source = model_folder(config)
    described = AutoConfig.from_pretrained(source, local_files_only=True)
    if config.model.head == "auto" and has_own_head(described):
        names = [described.id2label[i] for i in range(described.num_labels)]
        splits = splits.renumbered(names, config.where("model.head"))
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

    described = AutoConfig.from_pretrained(model_folder(config), local_files_only=True)
    with torch.device("meta"):
        model = AutoModel.from_config(described)
    try:
        (folder / "shape.json").write_text(json.dumps(asdict(anatomy_of(model).shape)))
    except Infeasible as reason:
        (folder / "unknown.txt").write_text(str(reason))


def make_teacher(folder: Path, config: RunConfig, data: Path, device: str, threads: int, progress: Progress) -> None:
    """The uncompressed model, fine-tuned on the training split (unless `teacher.epochs` is 0), as a model folder."""
    from spaces.base import ModelError, load_base, write_folder
    from spaces.training import Training, fit

    torch = _torch(threads)
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

        epoch = epochs(encoded, base.inputs, config.teacher.batch, config.seed, None)
        fit(model, epoch, loss, Training(**settings, seed=config.seed), device, partial(progress, "teacher"))
    write_folder(folder, model, base, {})
    _finish(folder, model, base.inputs, data)


def make_statistics(
    folder: Path, config: RunConfig, data: Path, teacher: Path, threads: int, progress: Progress
) -> None:
    """Statistics of the teacher on training rows; `unknown.txt` instead when its anatomy is not known."""
    from spaces import build
    from spaces.statistics import collect

    torch = _torch(threads)
    model = build.load(teacher)
    encoded, labels = read_encoded(data / "train.npz")
    known = torch.from_numpy(labels)
    task = task_named(config.task)
    batches = epochs(encoded, input_names(teacher), 32, config.seed, STATISTICS_ROWS)(0)
    try:
        found = collect(
            model,
            ((inputs, known[rows]) for inputs, rows in batches),
            lambda logits, wanted: task.loss({"logits": logits}, wanted),
            partial(progress, "statistics"),
        )
    except Infeasible as reason:
        (folder / "unknown.txt").write_text(str(reason))
        return
    found.save(folder / "statistics.safetensors")


def make_outputs(folder: Path, config: RunConfig, data: Path, teacher: Path, threads: int, progress: Progress) -> None:
    """The teacher's logits (N, C) and last hidden states (tokens, hidden; float16) on the rows that distil."""
    from safetensors.torch import save_file

    from spaces import build

    torch = _torch(threads)
    model = build.load(teacher)
    encoded, _ = read_encoded(data / "train.npz")
    rows = np.random.default_rng(config.seed).permutation(len(encoded))[: config.recover.rows]
    starts = np.full(len(encoded) + 1, -1, dtype=np.int64)
    ordered = np.sort(rows)
    starts[ordered] = np.concatenate([[0], np.cumsum(encoded.lengths[ordered])[:-1]])
    tokens = int(encoded.lengths[rows].sum())
    hidden = None
    logits = None
    order = ordered[by_length(encoded.lengths[ordered], 32)]
    watched = _LastHidden(model)
    names = input_names(teacher)
    with torch.inference_mode():
        for first in range(0, len(order), 32):
            chosen = order[first : first + 32]
            batch = {n: torch.from_numpy(a) for n, a in encoded.batch(chosen).items() if n in names}
            out = model(**batch)
            seen = watched.last
            if logits is None:
                logits = torch.zeros(len(encoded), out.shape[-1])
                if config.recover.hidden_weight > 0 and tokens * seen.shape[-1] * 2 <= STORED_HIDDEN_BYTES:
                    hidden = torch.zeros(tokens, seen.shape[-1], dtype=torch.float16)
            logits[torch.from_numpy(chosen)] = out
            if hidden is not None:
                for position, row in enumerate(chosen):
                    length = int(encoded.lengths[row])
                    hidden[starts[row] : starts[row] + length] = seen[position, :length].half()
            progress("teacher outputs", min(1.0, (first + 32) / len(order)))
    assert logits is not None
    tensors = {"logits": logits, "starts": torch.from_numpy(starts)}
    if hidden is not None:
        tensors["hidden"] = hidden
    save_file(tensors, folder / "outputs.safetensors")


class _LastHidden:
    """Remembers the backbone's last hidden state (B, L, H) of the latest forward pass."""

    def __init__(self, model: TaskModel) -> None:
        self.last: Any = None
        model.backbone.register_forward_hook(self._see)

    def _see(self, _module: Any, _args: Any, output: Any) -> None:
        self.last = output.last_hidden_state


class StoredTeacher:
    """Teacher outputs by row from the store; hidden states computed live when they were too many to store."""

    def __init__(self, outputs: Path, lengths: np.ndarray, teacher: Path, want_hidden: bool, device: str) -> None:
        from safetensors.torch import load_file

        found = load_file(outputs / "outputs.safetensors")
        self._logits, self._starts, self._hidden = found["logits"], found["starts"], found.get("hidden")
        self._lengths = lengths
        self._live = None
        if want_hidden and self._hidden is None:
            from spaces import build

            self._live = build.load(teacher).to(device)
            self._watched = _LastHidden(self._live)

    def __call__(
        self, rows: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        if self._live is not None:
            with torch.inference_mode():
                self._live(**inputs)
            return self._logits[rows], self._watched.last.clone()
        if self._hidden is None:
            return self._logits[rows], None
        padded = torch.zeros(*inputs["input_ids"].shape, self._hidden.shape[-1])
        for position, row in enumerate(rows.tolist()):
            start, length = int(self._starts[row]), int(self._lengths[row])
            padded[position, :length] = self._hidden[start : start + length]
        return self._logits[rows], padded


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
    progress: Progress,
) -> None:
    """One set of compressed weights: plans from the statistics, weights from the teacher, then recovery."""
    from spaces import build
    from spaces.base import read_config, write_folder
    from spaces.statistics import Statistics

    torch = _torch(threads)
    progress("compressing", 0.0)
    known = Statistics.load(statistics / "statistics.safetensors")
    plans = build.decide(steps, known)
    torch.manual_seed(config.seed)
    model = build.build(build.load(teacher), plans, known)
    base, _ = read_config(teacher)
    if recover:
        _recover(model, plans, recover, config, data, teacher, outputs, device, base.inputs, progress)
    write_folder(folder, model, base, plans)
    _finish(folder, model, base.inputs, data)


def _recover(
    model: TaskModel,
    plans: Mapping[str, Any],
    recover: Mapping[str, Value],
    config: RunConfig,
    data: Path,
    teacher: Path,
    outputs: Path,
    device: str,
    inputs: tuple[str, ...],
    progress: Progress,
) -> None:
    import torch

    from spaces.slicing import indices_of
    from spaces.training import Distillation, Training, fit

    encoded, labels = read_encoded(data / "train.npz")
    task = task_named(config.task)
    width = plans.get("distill", {}).get("hidden")
    wants_hidden = float(recover["hidden_weight"]) > 0
    loss = Distillation(
        labels=torch.from_numpy(labels),
        teacher=StoredTeacher(outputs, encoded.lengths, teacher, wants_hidden, device),
        task=lambda logits, wanted: task.loss({"logits": logits}, wanted),
        temperature=float(recover["temperature"]),
        task_weight=float(recover["task_weight"]),
        soft_weight=float(recover["soft_weight"]),
        hidden_weight=float(recover["hidden_weight"]),
        columns=None if width is None else torch.tensor(indices_of(width)),
    )
    training = Training(
        epochs=float(recover["epochs"]),
        batch=int(recover["batch"]),
        learning_rate=float(recover["learning_rate"]),
        head_learning_rate=float(recover["learning_rate"]),
        freeze_embeddings=config.teacher.freeze_embeddings and width is None,
        seed=config.seed,
    )
    epoch = epochs(encoded, inputs, training.batch, config.seed, config.recover.rows)
    fit(model, epoch, loss, training, device, partial(progress, "recovery"))


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


def _torch(threads: int) -> Any:
    import torch

    if threads:
        torch.set_num_threads(threads)
    return torch
