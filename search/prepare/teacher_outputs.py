"""Stage "outputs": the teacher's outputs on the rows of distillation, stored or computed on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from objectives.process import Progress
from search.config.schema import RunConfig
from search.prepare.folders import input_names, torch_with
from search.tasks.encoded import read_encoded, rows_of
from search.tasks.tokens import by_length

if TYPE_CHECKING:
    import torch

    from spaces.distillation import LossWeights, TeacherOutputs

#: Above this the teacher's hidden states are computed as they are needed instead of stored.
STORED_HIDDEN_BYTES = 2 * 10**9


def make_outputs(
    folder: Path, config: RunConfig, data: Path, teacher: Path, device: str, threads: int, progress: Progress
) -> None:
    """The teacher's logits (N, C) and last hidden states (tokens, hidden; float16) on the rows of distillation.

    The passes run on `device`; what is stored is on the CPU.
    """
    from safetensors.torch import save_file

    from spaces import build
    from spaces.distillation import capturing

    torch = torch_with(threads)
    model = build.load(teacher).to(device)
    encoded, _ = read_encoded(data / "train.npz")
    rows, held_out = rows_of(len(encoded), config.seed, config.recover.rows, config.recover.early_stopping is not None)
    rows = np.concatenate([rows, held_out])
    starts = np.full(len(encoded) + 1, -1, dtype=np.int64)
    ordered = np.sort(rows)
    starts[ordered] = np.concatenate([[0], np.cumsum(encoded.lengths[ordered])[:-1]])
    tokens = int(encoded.lengths[rows].sum())
    hidden = None
    logits = None
    order = ordered[by_length(encoded.lengths[ordered], 32)]
    names = input_names(teacher)
    with torch.inference_mode(), capturing(model) as activations:
        for first in range(0, len(order), 32):
            chosen = order[first : first + 32]
            batch = {n: torch.from_numpy(a).to(device) for n, a in encoded.batch(chosen).items() if n in names}
            out = model(**batch).cpu()
            assert activations.last is not None
            states = activations.last.cpu()
            if logits is None:
                logits = torch.zeros(len(encoded), out.shape[-1])
                if config.recover.hidden_weight > 0 and tokens * states.shape[-1] * 2 <= STORED_HIDDEN_BYTES:
                    hidden = torch.zeros(tokens, states.shape[-1], dtype=torch.float16)
            logits[torch.from_numpy(chosen)] = out
            if hidden is not None:
                for position, row in enumerate(chosen):
                    length = int(encoded.lengths[row])
                    hidden[starts[row] : starts[row] + length] = states[position, :length].half()
            progress("teacher outputs", min(1.0, (first + 32) / len(order)))
    assert logits is not None
    tensors = {"logits": logits, "starts": torch.from_numpy(starts)}
    if hidden is not None:
        tensors["hidden"] = hidden
    save_file(tensors, folder / "outputs.safetensors")


class StoredTeacher:
    """The teacher's outputs by row: from the store, or computed on demand where they are too large to store."""

    def __init__(
        self,
        outputs: Path,
        lengths: np.ndarray,
        teacher: Path,
        device: str,
        weights: LossWeights,
        blocks: tuple[int, ...] = (),
    ) -> None:
        from safetensors.torch import load_file

        tensors = load_file(outputs / "outputs.safetensors")
        self._logits, self._starts, self._hidden = tensors["logits"], tensors["starts"], tensors.get("hidden")
        self._lengths, self._blocks, self._relations = lengths, blocks, weights.relations > 0
        self._live = None
        if self._blocks or self._relations or (weights.hidden > 0 and self._hidden is None):
            from spaces import build

            self._live = build.load(teacher).to(device)

    def __call__(self, rows: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> TeacherOutputs:
        import torch

        from spaces.distillation import TeacherOutputs, capturing

        if self._live is not None:
            with torch.no_grad(), capturing(self._live, self._blocks, self._relations) as activations:
                self._live(**inputs)
            return TeacherOutputs(self._logits[rows], activations.last, activations.blocks, activations.projections)
        if self._hidden is None:
            return TeacherOutputs(self._logits[rows])
        padded = torch.zeros(*inputs["input_ids"].shape, self._hidden.shape[-1])
        for position, row in enumerate(rows.tolist()):
            start, length = int(self._starts[row]), int(self._lengths[row])
            padded[position, :length] = self._hidden[start : start + length]
        return TeacherOutputs(self._logits[rows], padded)
