"""The files beside the weights in every model folder, and facts read from a folder without its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from objectives.workload import Frame
from search.prepare.quantisation_inputs import calibrate
from search.tasks import Task
from search.tasks.encoded import read_encoded
from search.tasks.tokens import Encoded

if TYPE_CHECKING:
    import torch

    from spaces.base import TaskModel


#: Most rows whose outputs are stored for the parity check, and most tokens of these rows, unless one row has more.
REFERENCE_ROWS, REFERENCE_TOKENS = 64, 4096


def finish_folder(folder: Path, model: TaskModel, names: Sequence[str], data: Path, task: Task) -> None:
    """Write the files beside the weights of `model`.

    These are the tokenizer, the parameter count (`about.json`), outputs on a few validation rows for the parity check
    (`reference.npy`), and the inputs of quantisation (`calibrate`). `names` are the model's inputs.
    """
    import shutil

    import torch

    from spaces.base import read_config

    shutil.copytree(data / "tokenizer", folder, dirs_exist_ok=True)
    encoded, _ = read_encoded(data / "validation.npz")
    rows = reference_rows(encoded)
    model.eval()
    with torch.inference_mode():
        outputs = [model(**tensors(encoded.batch(rows[i : i + 1]), names)).numpy() for i in range(len(rows))]
    per_token = read_config(folder)[0].per_token  # of one row alone: nothing is padding
    np.save(folder / "reference.npy", np.concatenate([one[0] if per_token else one for one in outputs]))
    count = sum(p.numel() for p in model.parameters())
    (folder / "about.json").write_text(json.dumps({"params": count}))
    calibrate(folder, model, names, data, task)


def reference_rows(encoded: Encoded) -> np.ndarray:
    """(R,): the first rows within `REFERENCE_ROWS` and `REFERENCE_TOKENS`, at least one where there is any."""
    tokens = np.cumsum(encoded.lengths[:REFERENCE_ROWS])
    return np.arange(min(len(tokens), max(1, int((tokens <= REFERENCE_TOKENS).sum()))))


def some_rows(encoded: Encoded) -> dict[str, np.ndarray]:
    """The shortest and the longest of the reference rows, as one padded batch."""
    lengths = encoded.lengths[reference_rows(encoded)]
    return encoded.batch(np.array([lengths.argmin(), lengths.argmax()]))


def tensors(batch: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The arrays called `names` as tensors."""
    import torch

    return {n: torch.from_numpy(batch[n]) for n in names}


def input_names(folder: Path) -> tuple[str, ...]:
    """Names of the inputs of the stored model."""
    from spaces.base import read_config

    return read_config(folder)[0].inputs


def frame_in(folder: Path) -> Frame:
    """How the stored model's tokenizer frames texts; where the folder has no frame, any token ids but the first."""
    from spaces.base import read_config

    base, _ = read_config(folder)
    return Frame.of(base.frame) if base.frame else Frame(int(base.config["vocab_size"]))


def torch_with(threads: int) -> Any:
    """The module torch, with this number of threads; 0 leaves the number as it is."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    return torch
