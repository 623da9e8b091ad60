"""Stage "outputs": the teacher's outputs on the rows of distillation, stored or computed on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from objectives.process import Progress
from search.config.schema import RunConfig
from search.prepare.folders import torch_with
from search.prepare.recovery_budget import epochs_of, has_term, likeliest_of, stored_likeliest
from search.tasks import task_of
from search.tasks.encoded import read_encoded, trained_on, training_rows
from search.tasks.tokens import Encoded, by_length
from spaces.base import read_config

if TYPE_CHECKING:
    import torch

    from spaces.distillation import Likeliest, LossWeights, TeacherOutputs

#: The size above which the teacher's hidden states are computed when needed instead of stored.
STORED_HIDDEN_BYTES = 2 * 10**9


def make_outputs(
    folder: Path, config: RunConfig, data: Path, teacher: Path, device: str, threads: int, progress: Progress
) -> None:
    """Write `outputs.safetensors`: the teacher's output and last hidden states on the rows of distillation.

    The output is (N, ...), or (tokens, ...) for a head with one output per token; the states are (tokens, hidden) in
    float16, and left out above `STORED_HIDDEN_BYTES`. `starts` (N + 1,) is each row's first token, -1 without one.
    A language model's likeliest next tokens and their log-probabilities are `ids` and `log_probabilities` (tokens, k).
    """
    from safetensors.torch import save_file

    from spaces import build
    from spaces.distillation import capturing

    torch = torch_with(threads)
    model = build.load_model(teacher).to(device)
    encoded, _ = read_encoded(data / "train.npz")
    rows = _distilled(config, encoded)
    starts = np.full(len(encoded) + 1, -1, dtype=np.int64)
    starts[rows] = np.concatenate([[0], np.cumsum(encoded.lengths[rows])[:-1]])
    tokens = int(encoded.lengths[rows].sum())
    stored: dict[str, Any] = {}  # tensors
    at_once = task_of(config).most_rows(32, config.data.max_length)
    order = rows[by_length(encoded.lengths[rows], at_once)]
    base, count = read_config(teacher)[0], stored_likeliest(likeliest_of(config), tokens)
    with torch.inference_mode(), capturing(model, likeliest=count > 0) as activations:
        for first in range(0, len(order), at_once):
            chosen = order[first : first + at_once]
            batch = {n: torch.from_numpy(a).to(device) for n, a in encoded.batch(chosen).items() if n in base.inputs}
            out = model(**batch).cpu()
            assert activations.last is not None
            by_token = {"hidden": activations.last.cpu(), **({"output": out} if base.per_token else {})}
            highest = activations.likeliest(count)
            if highest is not None:
                by_token |= {"ids": highest.ids.cpu(), "log_probabilities": highest.log_probabilities.cpu()}
            if not stored:
                stored = _empty(by_token, tokens, has_term(config, "hidden"))
                if not base.per_token:
                    stored["output"] = torch.zeros(len(encoded), *out.shape[1:])
            if not base.per_token:
                stored["output"][torch.from_numpy(chosen)] = out
            _store_tokens(stored, by_token, starts[chosen], encoded.lengths[chosen])
            progress("teacher outputs", min(1.0, (first + at_once) / len(order)))
    save_file({**stored, "starts": torch.from_numpy(starts)}, folder / "outputs.safetensors")


def _distilled(config: RunConfig, encoded: Encoded) -> np.ndarray:
    """The rows of distillation, rising: those that a recovery trains on, and those that it holds out."""
    recover = config.recover
    rows, held_out = training_rows(len(encoded), config.seed, recover.rows, recover.early_stopping is not None)
    share = epochs_of(recover.epochs, recover.tokens, int(encoded.lengths[rows].sum()))
    return np.sort(np.concatenate([trained_on(encoded, recover.batch, config.seed, rows, share), held_out]))


def _empty(by_token: Mapping[str, torch.Tensor], tokens: int, hidden: bool) -> dict[str, Any]:
    """Zeros (tokens, ...) for these outputs (B, L, ...); the hidden states only if wanted, and if small enough."""
    import torch

    kinds = {"ids": torch.int32, "output": torch.float32}  # others are stored in half precision
    if not hidden or tokens * by_token["hidden"].shape[-1] * 2 > STORED_HIDDEN_BYTES:
        by_token = {name: values for name, values in by_token.items() if name != "hidden"}
    return {
        name: torch.zeros(tokens, *values.shape[2:], dtype=kinds.get(name, torch.float16))
        for name, values in by_token.items()
    }


def _store_tokens(
    stored: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor], starts: np.ndarray, lengths: np.ndarray
) -> None:
    """Put the tokens of a batch (B, L, ...) where `stored` (tokens, ...) has their rows, without padding."""
    for name, values in batch.items():
        if name in stored:
            for row, start, length in zip(values, starts.tolist(), lengths.tolist(), strict=True):
                stored[name][start : start + length] = row[:length].to(stored[name].dtype)


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
        projection: torch.Tensor | None = None,
        likeliest: int = 0,
    ) -> None:
        from safetensors.torch import load_file

        tensors = load_file(outputs / "outputs.safetensors")
        self._output, self._starts, self._hidden = tensors["output"], tensors["starts"], tensors.get("hidden")
        if projection is not None:  # of an embedding (N, D): the student's has fewer numbers
            self._output = self._output @ projection.T
        self._per_token = read_config(teacher)[0].per_token
        self._lengths, self._blocks, self._relations = lengths, blocks, weights.relations > 0
        self._ids, self._log_probabilities = tensors.get("ids"), tensors.get("log_probabilities")
        self._likeliest = likeliest
        self._live = None
        absent = (weights.hidden > 0 and self._hidden is None) or (likeliest > 0 and self._ids is None)
        if self._blocks or self._relations or absent:
            from spaces import build

            self._live = build.load_model(teacher).to(device)

    def __call__(self, rows: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> TeacherOutputs:
        import torch

        from spaces.distillation import TeacherOutputs, capturing

        if self._live is not None:
            asked = self._likeliest > 0
            with torch.no_grad(), capturing(self._live, self._blocks, self._relations, asked) as activations:
                self._live(**inputs)
            highest = activations.likeliest(self._likeliest)
            output = self._of(rows, inputs)
            return TeacherOutputs(output, activations.last, activations.blocks, activations.projections, highest)
        hidden = None if self._hidden is None else self._padded(self._hidden, rows, inputs)
        return TeacherOutputs(self._of(rows, inputs), hidden, likeliest=self._stored_likeliest(rows, inputs))

    def _stored_likeliest(self, rows: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> Likeliest | None:
        from spaces.distillation import Likeliest

        if self._ids is None or self._log_probabilities is None:
            return None
        ids, logs = (self._padded(one, rows, inputs) for one in (self._ids, self._log_probabilities))
        return Likeliest(ids.long(), logs)

    def _of(self, rows: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._padded(self._output, rows, inputs) if self._per_token else self._output[rows]

    def _padded(self, flat: torch.Tensor, rows: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, L, ...) of what is stored token by token."""
        import torch

        kind = torch.float32 if flat.is_floating_point() else flat.dtype
        padded = torch.zeros(*inputs["input_ids"].shape, *flat.shape[1:], dtype=kind)
        for position, row in enumerate(rows.tolist()):
            start, length = int(self._starts[row]), int(self._lengths[row])
            padded[position, :length] = flat[start : start + length]
        return padded
