"""Checkpoints of a training: a killed training resumes from its file, on the CPU bit for bit.

A state is tensors and a few numbers, so it is a safetensors file: no pickle is written or read.
"""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spaces.base import TaskModel
from spaces.early_stopping import Best
from spaces.recipe import digest_of


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoint file of an unfinished training, and how often it is written.

    The file belongs to one training: one set of data, one loss and one initialisation. Its folder must exist. The
    caller removes the file once the trained weights are stored.
    """

    file: Path
    every_s: float = 60.0


@dataclass(frozen=True)
class TrainingState:
    """The complete state of a training, except its data and its loss."""

    model: TaskModel
    optimizer: torch.optim.Optimizer
    best: Best | None
    device: str
    settings: Mapping[str, Any]  # JSON: under other settings a state means something else

    def fits(self) -> str:
        """Equal for two trainings when one can resume from the state of the other."""
        shapes = {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in self.model.state_dict().items()}
        stopping = None if self.best is None else [self.best.patience, self.best.every]
        # A later torch may draw other random numbers, or keep other moments.
        parts = {"torch": torch.__version__, "device": self.device, "shapes": shapes, "stopping": stopping}
        return digest_of({**parts, "settings": dict(self.settings)})

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moments, random state, and the best weights so far: on the CPU, by names that `put` knows."""
        # Cloned, because tied weights share their memory, and safetensors takes no tensors that do.
        tensors = {f"model.{name}": tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor.cpu() for name, tensor in moments.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        if self.best is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.weights.items()}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def put(self, tensors: Mapping[str, Tensor], best: Mapping[str, Any]) -> None:
        """Restore the state that gave `tensors`, and the facts of its `best`."""
        self.model.load_state_dict(_under("model.", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        torch.set_rng_state(tensors["random.cpu"])
        if self.device == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"])
        if self.best is not None:
            self.best.resume(best, _under("best.", tensors))


class Keeper:
    """Keeps the state of one training in its file; without `checkpoints` it keeps nothing."""

    def __init__(self, checkpoints: Checkpoints | None, state: TrainingState) -> None:
        self._checkpoints, self._state = checkpoints, state
        self._written = time.monotonic()

    def resume(self, until: int) -> int:
        """Restore the state of the file and return its step; 0 where there is no file that fits.

        A state beyond step `until` does not fit, because earlier weights cannot be recovered from it.
        """
        if self._checkpoints is None:
            return 0
        checkpoint = _read(self._checkpoints.file, self._state.fits())
        if checkpoint is None or checkpoint[0]["step"] > until:
            return 0
        facts, tensors = checkpoint
        self._state.put(tensors, facts["best"])
        return int(facts["step"])

    def over(self, step: int) -> None:
        """Write the state after `step` if a checkpoint is due."""
        if self._checkpoints is not None and time.monotonic() - self._written >= self._checkpoints.every_s:
            self.write(step)

    def write(self, step: int) -> None:
        """Write the state after `step`."""
        if self._checkpoints is None:
            return
        best = {} if self._state.best is None else self._state.best.facts()
        facts = {"fits": self._state.fits(), "step": step, "best": best}
        _write(self._checkpoints.file, json.dumps(facts), self._state.tensors())
        self._written = time.monotonic()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _write(file: Path, facts: str, tensors: Mapping[str, Tensor]) -> None:
    """Write the file atomically."""
    partial = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        save_file(dict(tensors), partial, {"facts": facts, "checksum": _checksum(facts, tensors)})
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _read(file: Path, fits: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Facts and tensors of an undamaged file that fits this training; else None."""
    try:
        with safe_open(file, "pt") as opened:
            written = opened.metadata() or {}
            facts = json.loads(written["facts"])
            if facts["fits"] != fits:
                return None
            # Cloned, because what is read lies in the mapped file, and moments are changed in place.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return (facts, tensors) if written.get("checksum") == _checksum(written["facts"], tensors) else None


def _checksum(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the whole file, against damage by the disk; it is no protection against tampering."""
    checksum = zlib.crc32(facts.encode())
    for name, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"
